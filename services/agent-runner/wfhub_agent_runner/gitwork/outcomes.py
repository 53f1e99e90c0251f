"""What the access helper answers, as values both sides of its pipe share.

Publishing ends in one of four ways, all of them observed; anything else is an error and means
that the outcome is unknown and has to be looked for again (publishing twice is harmless).
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """Both refs are there, at least one made now; of a plain folder, `note` says what was done."""

    commit: str
    note: str = ""  # for people; what was asked for besides, and what came of it


@dataclass(frozen=True)
class Already:
    """Both had been there before."""

    commit: str
    note: str = ""


@dataclass(frozen=True)
class Conflict:
    """A ref is there and points elsewhere, or a file was changed since. It was left alone."""

    ref: str  # or the file's path
    found: str
    note: str = ""  # instead of a sentence about refs


@dataclass(frozen=True)
class Refused:
    """The repository cannot take the commit; `code` is stable, `message` for people."""

    code: str
    message: str


PublishResult = Published | Already | Conflict | Refused
_KINDS: dict[str, type[Published | Already | Conflict | Refused]] = {
    "published": Published,
    "already": Already,
    "conflict": Conflict,
    "refused": Refused,
}


def to_wire(result: PublishResult) -> dict[str, Any]:
    return {"result": type(result).__name__.lower(), **vars(result)}


def from_wire(wire: dict[str, Any]) -> PublishResult:
    fields = {key: str(text) for key, text in wire.items() if key != "result"}
    return _KINDS[wire["result"]](**fields)


@dataclass(frozen=True)
class PullRequest:
    """`created`: made now, else it was there for this branch already."""

    number: int
    page: str
    created: bool


@dataclass(frozen=True)
class Fetched:
    """`objects` were written to the pack file; 0: the mirror had them all, no file."""

    objects: int
    size: int  # bytes
