"""The NATS wire protocol, taken apart into frames: what the proxy looks at and may repeat or drop.

A frame is one protocol operation with its payload, byte for byte. Only PUB, HPUB (client), MSG and
HMSG (server) have a payload. Pure; bytes in, frames out; a part of a frame is kept for later.
Raises: ValueError for a control line that is not NATS (the connection is then of no use).
"""

from dataclasses import dataclass

LINE_BYTES_MAX = 1024 * 1024  # INFO and CONNECT are lines too
_CRLF = b"\r\n"


@dataclass(frozen=True)
class Frame:
    raw: bytes
    op: str
    subject: str = ""
    reply: str = ""
    payload: bytes = b""  # without headers
    headers: bytes = b""

    @property
    def carries(self) -> bool:
        return self.op in {"PUB", "HPUB", "MSG", "HMSG"}


class Parser:
    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> bytes:
        """Bytes of a frame that is not whole yet."""
        return bytes(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        end = self._buffer.find(_CRLF)
        if end < 0:
            if len(self._buffer) > LINE_BYTES_MAX:
                raise ValueError("a control line without an end")
            return None
        line = bytes(self._buffer[:end])
        words = line.split()
        op = words[0].decode("ascii", "replace").upper() if words else ""
        if op not in {"PUB", "HPUB", "MSG", "HMSG"}:
            raw = bytes(self._buffer[: end + 2])
            del self._buffer[: end + 2]
            return Frame(raw, op)
        size = int(words[-1])
        total = end + 2 + size + 2
        if len(self._buffer) < total:
            return None
        raw = bytes(self._buffer[:total])
        del self._buffer[:total]
        return _message(raw, op, [word.decode() for word in words[1:]], raw[end + 2 : -2])


def _message(raw: bytes, op: str, words: list[str], body: bytes) -> Frame:
    sizes = 2 if op in {"HPUB", "HMSG"} else 1
    names = words[:-sizes]
    header_bytes = int(words[-2]) if sizes == 2 else 0
    # PUB subject [reply]; MSG subject sid [reply]
    before_reply = 1 if op.endswith("PUB") else 2
    reply = names[before_reply] if len(names) > before_reply else ""
    return Frame(raw, op, names[0], reply, body[header_bytes:], body[:header_bytes])
