"""Small readings of what somebody else's JSON may hold."""

from collections.abc import Iterable, Iterator
from typing import Any

Line = dict[str, Any] | str


def objects(lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
    return (line for line in lines if isinstance(line, dict))


def inner(value: Any, *names: str) -> dict[str, Any]:
    """The object at the end of a way of names; an empty one where the way ends early."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def parts(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; a text counts as one part."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    return [p for p in value if isinstance(p, dict)] if isinstance(value, list) else []
