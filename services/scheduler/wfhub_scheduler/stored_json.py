"""JSON as Postgres takes it: jsonb and text know no U+0000, jsonb no NaN.

What runners send is kept, with U+0000 replaced by U+FFFD, rather than refused for a byte. Nearly
nothing holds such things: a value is walked through only when its text looks as if it did.
"""

import math
from dataclasses import asdict, is_dataclass
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_json
from wfhub_common.messages import Receipt

_RECEIPTS = TypeAdapter(tuple[Receipt, ...])
_NUL = b"\\u0000"  # in JSON text; also of an escaped backslash before u0000, which costs a walk


def clean(text: str) -> str:
    return text.replace("\x00", "\ufffd")


def as_it_is(value: Any) -> str | None:
    """Plain JSON values, or a message, as one jsonb parameter; None: they are not kept as such."""
    text = to_json(value)
    if _NUL in text:
        plain = _plain(value)
        if _storable(plain) != plain:
            return None
    return text.decode()


def storable(value: Any) -> bool:
    return as_it_is(value) is not None


def dumped(value: Any) -> str:
    """One jsonb parameter, from plain JSON values, messages and dataclasses."""
    text = to_json(value, inf_nan_mode="constants")
    if _NUL in text or b"NaN" in text or b"Infinity" in text:
        text = to_json(_storable(value))
    return text.decode()


def _storable(value: Any) -> Any:
    match value:
        case str():
            return clean(value)
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {clean(str(key)): _storable(item) for key, item in value.items()}
        case list() | tuple():
            return [_storable(item) for item in value]
        case BaseModel():
            return _storable(_plain(value))
    if is_dataclass(value) and not isinstance(value, type):
        return _storable(asdict(value))
    return value


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def receipts(column: str) -> tuple[Receipt, ...]:
    """The `receipts` column of an attempt, as text."""
    return _RECEIPTS.validate_json(column)
