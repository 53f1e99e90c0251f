"""Log feed: a task's logs as server-sent events, which can be taken up where they were cut.

Each is `id: <place>`, `data: {"log": "agent", "text": "…"}` (safe text, not whole lines);
`event: end` is the last, and without it there is more. A place is the attempt and how many bytes of
each of its logs were given: `att_…:agent=120,verify=7`. It holds for the stored log as for the live
one; only of a log that was too long to be kept whole the last part comes again.
Raises: Rejected (`place-malformed`).
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import NamedTuple

from wfhub_common.errors import Rejected
from wfhub_common.service import Stop

from wfhub_api.log_sources import LOG_SUFFIX, Piece
from wfhub_api.plain_text import PlainText

END = b"event: end\ndata: {}\n\n"
_GIVEN = r"[a-z-]{1,40}=[0-9]{1,15}"
_PLACE = re.compile(rf"(att_[a-z2-7]{{24}}):({_GIVEN}(?:,{_GIVEN}){{0,15}})\Z")


class Place(NamedTuple):
    attempt_id: str
    given: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.attempt_id}:{','.join(f'{log}={n}' for log, n in self.given.items())}"


def parse_place(value: str | None) -> Place | None:
    """None: from the beginning."""
    if value is None:
        return None
    match = _PLACE.match(value)
    if match is None:
        raise Rejected(
            "place-malformed",
            f"{value[:40]!r} is no place in a log: pass the id of the last event, unchanged",
        )
    pairs = (pair.split("=") for pair in match[2].split(","))
    return Place(match[1], {log: int(given) for log, given in pairs})


async def as_events(
    pieces: AsyncIterator[Piece], since: Place | None, stop: Stop
) -> AsyncGenerator[bytes, None]:
    """What was given is read again, since what it left unfinished belongs to what follows, and
    not shown again."""
    attempt_id = ""
    given: dict[str, int] = {}
    clean: dict[str, PlainText] = {}
    async for piece in pieces:
        if piece.attempt_id != attempt_id:
            for event in _last_words(attempt_id, given, clean):
                yield event
            attempt_id, clean = piece.attempt_id, {}
            given = dict(since.given) if since and since.attempt_id == attempt_id else {}
        log = piece.log.removesuffix(LOG_SUFFIX)
        text = clean.setdefault(log, PlainText())
        known = 0
        if piece.at is not None:
            known = min(max(given.get(log, 0) - piece.at, 0), len(piece.data))
            given[log] = max(given.get(log, 0), piece.at + len(piece.data))
        text.feed(piece.data[:known])
        if shown := text.feed(piece.data[known:]):
            yield _event(Place(attempt_id, given), log, shown)
    for event in _last_words(attempt_id, given, clean):
        yield event
    if not stop.event.is_set():
        yield END


def _last_words(
    attempt_id: str, given: Mapping[str, int], clean: Mapping[str, PlainText]
) -> list[bytes]:
    rests = [(log, text.finish()) for log, text in clean.items()]
    return [_event(Place(attempt_id, given), log, rest) for log, rest in rests if rest]


def _event(place: Place, log: str, text: str) -> bytes:
    # ASCII: readers differ in what ends a line.
    return f"id: {place}\ndata: {json.dumps({'log': log, 'text': text})}\n\n".encode()
