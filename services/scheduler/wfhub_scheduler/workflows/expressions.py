"""Expressions: `${{ tasks.NAME.outputs.OUTPUT }}` in a task's texts.

A text is read once, into literal pieces and references; values take the references' places as
they are and are never read again, so a value that looks like an expression stays a text. `$${{` is
a literal `${{`.
Programs read some texts as code: shell commands, and arguments, which may be scripts. There only
outputs of harmless characters may stand, since inside of the author's own quotes no quoting of ours
would help; in a shell command they are quoted all the same (shlex.quote).
Pure. Raises: BadExpression (at submission), Unresolvable (when the values are there).
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

# Output → may a program read it as code? Ids, hashes, words and refs of our own making.
OUTPUTS: Mapping[str, bool] = {
    "task_id": True,
    "state": True,
    "reason": False,  # said by the runner
    "message": False,
    "branch": True,
    "commit": True,
    "base_commit": True,
    "verdict": True,
    "proof_id": True,
    "attempts": True,
}
EXPRESSION_CHARS_MAX = 200
OPENING, CLOSING = "${{", "}}"
_HARMLESS = re.compile(r"([A-Za-z0-9_./:][A-Za-z0-9_./:-]*)?\Z")
_OPENINGS = re.compile(r"\$\$\{\{|\$\{\{")
_REFERENCE = re.compile(r"\s*tasks\.([A-Za-z_][A-Za-z0-9_-]*)\.outputs\.([A-Za-z_]+)\s*\Z")


class Kind(Enum):
    """Who reads the text that a value is put into."""

    TEXT = auto()  # people, or an agent as its prompt
    ARGUMENT = auto()  # a program
    SHELL = auto()


@dataclass(frozen=True)
class Reference:
    task: str
    output: str

    def __str__(self) -> str:
        return f"tasks.{self.task}.outputs.{self.output}"


class BadExpression(Exception):
    """Its text is one sentence."""


class Unresolvable(Exception):
    """Its text is one sentence."""


def has_any(text: str) -> bool:
    return OPENING in text


def pieces(text: str, kind: Kind) -> list[str | Reference]:
    found: list[str | Reference] = []
    at = 0
    while opening := _OPENINGS.search(text, at):
        found.append(text[at : opening.start()])
        if opening[0] != OPENING:
            found.append(OPENING)
            at = opening.end()
            continue
        end = text.find(CLOSING, opening.end())
        if end < 0:
            raise BadExpression("`${{` has no `}}`; write `$${{` for the characters themselves")
        found.append(_reference(text[opening.end() : end], kind))
        at = end + len(CLOSING)
    found.append(text[at:])
    return [piece for piece in found if piece != ""]


def references(text: str, kind: Kind) -> list[Reference]:
    return [piece for piece in pieces(text, kind) if isinstance(piece, Reference)]


def resolved(text: str, kind: Kind, value_of: Callable[[Reference], str]) -> str:
    return "".join(
        piece if isinstance(piece, str) else _placed(piece, value_of(piece), kind)
        for piece in pieces(text, kind)
    )


def _reference(inner: str, kind: Kind) -> Reference:
    match = _REFERENCE.match(inner)
    if match is None or len(inner) > EXPRESSION_CHARS_MAX:
        raise BadExpression(
            f"`{inner.strip()[:80]}` is not an expression; one is tasks.NAME.outputs.OUTPUT"
            " (write `$${{` for the characters themselves)"
        )
    reference = Reference(match[1], match[2])
    if reference.output not in OUTPUTS:
        raise BadExpression(
            f"tasks have no output {reference.output!r}; there are {', '.join(OUTPUTS)}"
        )
    if kind is not Kind.TEXT and not OUTPUTS[reference.output]:
        raise BadExpression(
            f"{reference} is free text, which no program must read as code: use it in the prompt"
        )
    return reference


def _placed(reference: Reference, value: str, kind: Kind) -> str:
    if kind is Kind.TEXT:
        return value
    if not _HARMLESS.match(value):
        raise Unresolvable(f"{reference} holds characters that a program may read as code")
    return shlex.quote(value) if kind is Kind.SHELL else value
