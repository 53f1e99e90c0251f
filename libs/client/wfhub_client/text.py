"""Text for a terminal: no control character of anybody else's gets there."""

import json
import re
from typing import Any

_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def safe(value: object) -> str:
    return _UNSAFE.sub("", str(value))


def one_line(value: object, chars_max: int = 200) -> str:
    line = " ".join(safe(value).split())
    return line if len(line) <= chars_max else line[: chars_max - 1] + "…"


def elapsed(seconds: float) -> str:
    """`7.3s`, `4m05s`, `2h03m`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    return f"{minutes // 60}h{minutes % 60:02}m"


def print_one(found: dict[str, Any], text: str, *, as_json: bool) -> None:
    """What was found, as the API says it on one line, or in words."""
    print(json.dumps(found) if as_json else text, flush=True)
