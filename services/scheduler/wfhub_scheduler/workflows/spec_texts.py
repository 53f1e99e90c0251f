"""The texts of a task's spec that may hold expressions, and how each is read.

Everything else in a spec is what it says: an expression there is a fault. Pure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from wfhub_common import limits
from wfhub_common.messages import TaskSpec

from wfhub_scheduler import spec_sizes
from wfhub_scheduler.workflows import expressions, faults
from wfhub_scheduler.workflows.expressions import Kind, Reference, Unresolvable
from wfhub_scheduler.workflows.faults import Path

WHERE = "prompt, title, base, verify, agent.argv, agent.model"


@dataclass(frozen=True)
class Text:
    path: Path  # within the spec
    kind: Kind | None  # None: no expression may stand here
    text: str


def texts(spec: dict[str, Any]) -> Iterator[Text]:
    """Every text of a spec (its JSON form) that holds `${{`."""
    for path, text in _walk(spec, ()):
        if expressions.has_any(text):
            yield Text(path, kind_of(path), text)


def kind_of(path: Path) -> Kind | None:
    match path:
        case ("prompt" | "title" | "base",) | ("agent", "model"):
            return Kind.TEXT
        case ("agent", "argv", int()):
            return Kind.ARGUMENT
        case ("verify", int()):
            return Kind.SHELL
    return None


def filled(spec: dict[str, Any], value_of: Callable[[Reference], str]) -> TaskSpec:
    """The spec with every expression replaced. Raises: Unresolvable."""
    for each in list(texts(spec)):
        if each.kind is None:  # refused when it was submitted
            continue
        try:
            text = expressions.resolved(each.text, each.kind, value_of)
        except Unresolvable as e:
            raise Unresolvable(f"{faults.shown(each.path)}: {e}") from e
        if each.path == ("title",):
            text = text[: limits.TITLE_CHARS_MAX]  # a name for lists is no reason to fail
        spec = _replaced(spec, each.path, text)
    try:
        made = TaskSpec.model_validate(spec)
    except ValidationError as e:
        fault = faults.of_validation(e)[0]
        raise Unresolvable(f"with the outputs of other tasks filled in, {fault}") from e
    size = len(made.model_dump_json().encode())
    too_large = spec_sizes.excess(made)
    if size > limits.RPC_BYTES_MAX:
        too_large = f"it has {size} bytes; a runner can be told of {limits.RPC_BYTES_MAX}"
    if too_large:
        raise Unresolvable(f"with the outputs of other tasks filled in, {too_large}")
    return made


def _walk(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    match value:
        case str():
            yield path, value
        case dict():
            for key, item in value.items():
                yield from _walk(item, (*path, key))
        case list() | tuple():
            for i, item in enumerate(value):
                yield from _walk(item, (*path, i))


def _replaced(value: Any, path: Path, text: str) -> Any:
    if not path:
        return text
    head, rest = path[0], path[1:]
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[head] = _replaced(value[head], rest, text)  # type: ignore[index]  # JSON: key or index
    return changed
