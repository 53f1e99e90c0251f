"""Faults: what is wrong with a document, each with its path.

A path is written as one would in code: `tasks.b.needs[1]`, `defaults.agent.argv[0]`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from wfhub_common.errors import Rejected

FAULTS_LISTED_MAX = 20
FAULT_CHARS_MAX = 1000

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Fault:
    path: Path
    message: str

    def __str__(self) -> str:
        text = f"{shown(self.path)}: {self.message}" if self.path else self.message
        return text if len(text) <= FAULT_CHARS_MAX else text[: FAULT_CHARS_MAX - 1] + "…"


def shown(path: Path) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part[:100].encode("utf-8", "backslashreplace").decode()
            text += f".{plain}" if text else plain
    return text


def of_validation(error: ValidationError, under: Path = ()) -> list[Fault]:
    """Pydantic's errors as ours; what was given is not repeated, it may be long or secret."""
    found = []
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        path, message = under + tuple(each["loc"]), each["msg"]
        match each["type"]:
            case "extra_forbidden":
                message = "there is no such field"
            case "missing":
                message = "is missing"
            case _ if path and path[-1] == "[key]":
                path, message = path[:-1], "not a name for a task: letters, digits, _ and -"
        found.append(Fault(path, message.removeprefix("Value error, ")))
    return found


def invalid(faults: Sequence[Fault]) -> Rejected:
    """The first fault is the message; the field `faults` lists them."""
    listed = [
        {"path": shown(fault.path)[:FAULT_CHARS_MAX], "message": fault.message[:FAULT_CHARS_MAX]}
        for fault in faults[:FAULTS_LISTED_MAX]
    ]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Rejected("workflow-invalid", f"{faults[0]}{more}", faults=listed)


def refuse_any(faults: Iterable[Fault]) -> None:
    """Raises: Rejected."""
    found = list(faults)
    if found:
        raise invalid(found)
