"""A clock that is wrong by CHAOS_CLOCK_S seconds, for a Python process that has this on its path.

Only the wall clock: time.time, time.time_ns and datetime.now. The monotonic clock does not jump.
"""

import datetime as _datetime
import os
import time as _time
from typing import Any

_OFFSET_S = float(os.environ.get("CHAOS_CLOCK_S", "0"))

if _OFFSET_S:
    _time_s, _time_ns, _datetime_class = _time.time, _time.time_ns, _datetime.datetime

    class _Kind(type(_datetime_class)):  # type: ignore[misc]  # of the class as it was
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, _datetime_class)

    class _Jumped(_datetime_class, metaclass=_Kind):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: _datetime.tzinfo | None = None) -> Any:
            return _datetime_class.now(tz) + _datetime.timedelta(seconds=_OFFSET_S)

        @classmethod
        def utcnow(cls) -> Any:
            return _datetime_class.utcnow() + _datetime.timedelta(seconds=_OFFSET_S)

    _time.time = lambda: _time_s() + _OFFSET_S
    _time.time_ns = lambda: _time_ns() + int(_OFFSET_S * 1e9)
    _datetime.datetime = _Jumped  # type: ignore[misc]
