"""Plain text: what an agent printed, made safe to show in any terminal or page.

Bytes in, text out, chunk by chunk: UTF-8 (bad bytes become U+FFFD), terminal sequences (CSI,
OSC, DCS and kin) removed whole, then every C0 and C1 control but newline and tab, and the
bidirectional controls. A sequence cut by a chunk's end is kept for the next chunk.
"""

import codecs
import re

SEQUENCE_CHARS_MAX = 4096  # a "sequence" that is longer is no sequence: its text is shown

# Bodies stop at any control character, so that matching stays linear on hostile input.
_STRING = r"(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x00-\x1f\x7f-\x9f]*"
_CSI = r"(?:\x1b\[|\x9b)[0-?]*[ -/]*"
_SEQUENCE = re.compile(
    rf"{_STRING}(?:\x07|\x1b\\|\x9c)|{_CSI}[@-~]|\x1b[ -/]+[0-~]|\x1b[0-OQ-WYZ\\`-~]"
)
_UNFINISHED = re.compile(rf"(?:{_STRING}\x1b?|{_CSI}|\x1b[ -/]*)\Z")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class PlainText:
    """One log's filter. `feed` each chunk, then `finish` once."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._kept = ""

    def feed(self, chunk: bytes) -> str:
        return self._clean(self._decoder.decode(chunk), last=False)

    def finish(self) -> str:
        return self._clean(self._decoder.decode(b"", True), last=True)

    def _clean(self, decoded: str, *, last: bool) -> str:
        text = _SEQUENCE.sub("", self._kept + decoded)
        self._kept = ""
        unfinished = None if last else _UNFINISHED.search(text)
        if unfinished and len(unfinished[0]) <= SEQUENCE_CHARS_MAX:
            self._kept = unfinished[0]
            text = text[: unfinished.start()]
        return _CONTROLS.sub("", text)


def plain(data: bytes) -> str:
    """A whole log at once."""
    filter_ = PlainText()
    return filter_.feed(data) + filter_.finish()
