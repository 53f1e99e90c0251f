"""Cassettes: recorded exchanges with a model, as a JSON-lines file that is replayed or checked.

Line 1 is the header, each further line one exchange; empty lines are ignored.

    {"wfhub_cassette": 1,                       format version, always 1
     "recorded_from": "http://127.0.0.1:8080",  where the answers came from; "" when by hand
     "recorded_at": "2026-01-31T12:00:00Z",     RFC 3339, or ""
     "handwritten": false,                      true: a person wrote the answers; always shown
     "note": "what this is for",
     "volatile": [["pid \\\\d+", "pid <n>"]]}     [regex, replacement] pairs, see matching.py

    {"request": {"messages": [...], "tools": [...]},
     "response": {"status": 200, "headers": {"content-type": "application/json"},
                  "stream": false, "body": {...a chat.completion, or an error object...}}}

A streamed answer has `"stream": true` and, in place of `body`, `"events"`: the `data` of each
server-sent event as a string, each a chat.completion.chunk in JSON, the last one "[DONE]":
`"events": ["{\\"choices\\":[{\\"index\\":0,\\"delta\\":{\\"content\\":\\"hi\\"}}]}", "[DONE]"]`.
Either kind serves both kinds of client (completion.py converts), so a file written by hand needs
`"stream": false` only. In a response `status` defaults to 200, `headers` to {}.

Which exchange answers a request (matching.py says how texts are normalised before comparison):
- `messages` must be equal, and `tools` too where the exchange has that key (leave `tools` out to
  accept any). The model and all other parameters are not compared.
- A string that is exactly "<any>" in a recorded request matches any value in its place: a system
  prompt, the output of a command, a whole `content`. {"role": "tool", "content": "<any>"} does
  not need its `tool_call_id`: a key that a recorded *message* leaves out is not compared.
  A recorded message must still have its `role`, and the number of messages must be equal.
- Equal requests of one attempt get their matching exchanges in the order of the file; after the
  last one, the last again (a client that retries is not punished).

`python -m wfhub_llm_gateway.cassette check FILE` says what is wrong, by line number.
Raises: CassetteError, with the line and what to do.
"""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wfhub_llm_gateway import completion
from wfhub_llm_gateway.matching import Mask, normalised

VERSION = 1
LINE_BYTES_MAX = 32 * 1024 * 1024
HEADER_KEYS = {"wfhub_cassette", "recorded_from", "recorded_at", "handwritten", "note", "volatile"}


class CassetteError(Exception):
    """The file is not a cassette that can be replayed; the message names file and line."""


@dataclass(frozen=True)
class Header:
    recorded_from: str = ""
    recorded_at: str = ""
    handwritten: bool = False
    note: str = ""
    volatile: tuple[tuple[str, str], ...] = ()

    def masks(self) -> tuple[Mask, ...]:
        return tuple((re.compile(pattern), replacement) for pattern, replacement in self.volatile)

    def line(self) -> str:
        value = {
            "wfhub_cassette": VERSION,
            "recorded_from": self.recorded_from,
            "recorded_at": self.recorded_at,
            "handwritten": self.handwritten,
            "note": self.note,
            "volatile": [list(pair) for pair in self.volatile],
        }
        return json.dumps(value, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Response:
    """`body` is set unless `stream`; `events` are the data of SSE events, "[DONE]" included."""

    status: int
    stream: bool
    body: Any = None
    events: tuple[str, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """One exchange; `request` is normalised, `line` is its number in the file."""

    request: dict[str, Any]
    response: Response
    line: int = 0

    def text(self) -> str:
        response = self.response
        answer: dict[str, Any] = {
            "status": response.status,
            "headers": response.headers,
            "stream": response.stream,
        }
        if response.stream:
            answer["events"] = list(response.events)
        else:
            answer["body"] = response.body
        return json.dumps({"request": self.request, "response": answer}, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Cassette:
    header: Header
    exchanges: tuple[Recorded, ...]


def load(path: Path) -> Cassette:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise CassetteError(f"cannot read cassette {path}: {e}") from e
    header: Header | None = None
    exchanges = []
    # Only "\n" ends a line: JSON strings may hold U+2028 and its like as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = _object(line)
            if header is None:
                header = _header(value)
            else:
                exchanges.append(_exchange(value, header.masks(), number))
        except CassetteError as e:
            raise CassetteError(f"{path}:{number}: {e}") from e
    if header is None:
        raise CassetteError(f"{path}: empty; the first line must be the header (wfhub_cassette)")
    return Cassette(header, tuple(exchanges))


def _object(line: str) -> dict[str, Any]:
    if len(line) > LINE_BYTES_MAX:
        raise CassetteError(f"the line is longer than {LINE_BYTES_MAX} bytes")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise CassetteError(f"not JSON: {e}") from e
    if not isinstance(value, dict):
        raise CassetteError("each line must be a JSON object")
    return value


def _header(value: dict[str, Any]) -> Header:
    if value.get("wfhub_cassette") != VERSION:
        raise CassetteError('the first line must be a header with "wfhub_cassette": 1')
    if unknown := set(value) - HEADER_KEYS:
        raise CassetteError(f"unknown header keys: {', '.join(sorted(unknown))}")
    handwritten = value.get("handwritten", False)
    if not isinstance(handwritten, bool):
        raise CassetteError('"handwritten" must be true or false')
    volatile = []
    for pair in value.get("volatile", []):
        if not isinstance(pair, list) or [type(part) for part in pair] != [str, str]:
            raise CassetteError(f'"volatile" needs [regex, replacement] pairs, not {pair!r}')
        try:
            re.compile(pair[0])
        except re.error as e:
            raise CassetteError(f'"volatile" regex {pair[0]!r}: {e}') from e
        volatile.append((pair[0], pair[1]))
    return Header(
        recorded_from=str(value.get("recorded_from", "")),
        recorded_at=str(value.get("recorded_at", "")),
        handwritten=handwritten,
        note=str(value.get("note", "")),
        volatile=tuple(volatile),
    )


def _exchange(value: dict[str, Any], masks: tuple[Mask, ...], number: int) -> Recorded:
    if set(value) != {"request", "response"}:
        raise CassetteError('an exchange has the keys "request" and "response", no others')
    request = value["request"]
    messages = request.get("messages") if isinstance(request, dict) else None
    if not isinstance(messages, list) or not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages
    ):
        raise CassetteError('"request" needs "messages", a list of objects with a "role"')
    if unknown := set(request) - {"messages", "tools"}:
        raise CassetteError(f"not compared, so not allowed in request: {sorted(unknown)}")
    return Recorded(normalised(request, masks), _response(value["response"]), number)


def _response(value: Any) -> Response:
    if not isinstance(value, dict):
        raise CassetteError('"response" must be an object')
    if unknown := set(value) - {"status", "headers", "stream", "body", "events"}:
        raise CassetteError(f"unknown keys in response: {sorted(unknown)}")
    status, stream = value.get("status", 200), value.get("stream", False)
    headers = value.get("headers", {})
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise CassetteError('"status" must be an HTTP status from 200 to 599')
    if not isinstance(stream, bool) or not isinstance(headers, dict):
        raise CassetteError('"stream" must be true or false, "headers" an object')
    if not stream:
        if "events" in value or "body" not in value:
            raise CassetteError('"stream": false needs "body" and no "events"')
        if status == 200 and not completion.is_whole(value["body"]):
            raise CassetteError('"body" must be a chat.completion with choices[].message')
        return Response(status, False, value["body"], (), headers)
    events = value.get("events")
    if "body" in value or not isinstance(events, list) or not events:
        raise CassetteError('"stream": true needs "events", a list of strings, and no "body"')
    for n, event in enumerate(events):
        if not isinstance(event, str) or not completion.is_event(event):
            raise CassetteError(f'events[{n}] must be a JSON object as a string, or "[DONE]"')
    return Response(status, True, None, tuple(events), headers)


def main(argv: list[str]) -> int:
    if len(argv) != 2 or argv[0] != "check":
        sys.stderr.write("usage: python -m wfhub_llm_gateway.cassette check FILE\n")
        return 2
    try:
        cassette = load(Path(argv[1]))
    except CassetteError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    kind = "written by hand" if cassette.header.handwritten else "recorded"
    sys.stdout.write(f"{argv[1]}: ok, {len(cassette.exchanges)} exchanges, {kind}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
