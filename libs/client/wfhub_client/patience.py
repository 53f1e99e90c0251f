"""Asking again: which answers mean "later", and for how long that is believed.

Units: seconds.  Raises: Refused, Unreachable (errors.py).
"""

import time

import httpx

from wfhub_client.errors import Refused, Unreachable

BACKOFF_S = (0.2, 5.0)  # first and longest pause
_FULL = 429
_LATER = {_FULL, 502, 503, 504}


class Later(Exception):
    """The service is there, but cannot answer now; not before `after_s`, if it said so.

    `refused` is what it means when there is no patience left: 429 is an answer, 503 is none."""

    def __init__(self, why: str, after_s: float, refused: Refused | None) -> None:
        super().__init__(why)
        self.after_s = after_s
        self.refused = refused


class Patience:
    """Pauses that grow, and an end to them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: float | None = time.monotonic() + seconds
        self._pause_s = BACKOFF_S[0]

    def renew(self) -> None:
        """All is well; what goes wrong next may have been so for a while before it was noticed."""
        self._until = None
        self._pause_s = BACKOFF_S[0]

    def wait(self, why: str, cause: Exception | None = None) -> None:
        """Raises: Unreachable, or Refused, when there is no patience left."""
        later = cause if isinstance(cause, Later) else None
        pause_s = max(self._pause_s, later.after_s if later else 0.0)
        if self._until is None:
            self._until = time.monotonic() + self._seconds
        if time.monotonic() + pause_s > self._until:
            raise (later and later.refused) or Unreachable(why) from cause
        time.sleep(pause_s)
        self._pause_s = min(2 * self._pause_s, BACKOFF_S[1])


def check(response: httpx.Response) -> None:
    """Raises: Refused; Later, for what may be asked again."""
    if response.status_code < 400:
        return
    try:
        body = response.json()
        detail, code = str(body["detail"]), str(body["code"])
    except (ValueError, KeyError, TypeError):
        body, code = {}, "http-error"
        detail = f"{response.request.url} answered {response.status_code}: is this Workflow Hub?"
    refused = Refused(response.status_code, code, detail, body)
    if response.status_code not in _LATER:
        raise refused
    after = response.headers.get("Retry-After", "")
    known = refused if response.status_code == _FULL else None
    raise Later(detail, float(after) if after.isdecimal() else 0.0, known)
