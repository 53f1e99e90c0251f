"""Server-sent events: lines in, events out (the part of the WHATWG format that the API uses)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
    id: str
    event: str
    data: str


def parse(texts: Iterable[str]) -> Iterator[Message]:
    """Of text that was cut anywhere. Complete messages only: what a cut connection left half is not
    yielded."""
    fields: dict[str, str] = {}
    data: list[str] = []
    for line in _lines(texts):
        if not line:
            if data:
                yield Message(fields.get("id", ""), fields.get("event", "message"), "\n".join(data))
            fields, data = {}, []
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            else:
                fields[name] = value


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Complete ones. Data may hold what `str.splitlines` takes for an end, such as U+2028."""
    rest = ""
    for text in texts:
        *lines, rest = (rest + text).split("\n")
        yield from (line.removesuffix("\r") for line in lines)
