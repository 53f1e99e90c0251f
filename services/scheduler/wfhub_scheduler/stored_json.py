"""JSON as Postgres takes it: jsonb and text know no U+0000, jsonb no NaN.

What runners send is kept, with U+0000 replaced by U+FFFD, rather than refused for a byte.
"""

import json
import math
from typing import Any

from pydantic import BaseModel, TypeAdapter
from wfhub_common.messages import Receipt

_RECEIPTS = TypeAdapter(tuple[Receipt, ...])


def clean(text: str) -> str:
    return text.replace("\x00", "\ufffd")


def storable(value: Any) -> bool:
    """Whether plain JSON values are kept as they are."""
    return bool(_storable(value) == value)


def dumped(value: Any) -> str:
    """One jsonb parameter, from plain JSON values or a message."""
    try:
        written = json.dumps(value, allow_nan=False, default=_plain)
    except ValueError:  # not a finite number
        return json.dumps(_storable(value), allow_nan=False)
    # As it is written, or as text that looks like it: then a closer look does no harm.
    return json.dumps(_storable(value)) if "\\u0000" in written else written


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not plain JSON")


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
            return _storable(value.model_dump(mode="json"))
    return value


def receipts(column: Any) -> tuple[Receipt, ...]:
    """The `receipts` column of an attempt, as it was stored."""
    return _RECEIPTS.validate_python(column)
