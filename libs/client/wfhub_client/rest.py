"""Requests to the REST API (httpx), asked again while the service is unreachable or says "later"
(503, 429): so only what is safe to repeat is asked here. Units: seconds.
Raises: Refused, Unreachable (errors.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from wfhub_client import sse
from wfhub_client.errors import Unreachable
from wfhub_client.patience import Later, Patience, check

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
STREAM_QUIET_S = 45.0  # three of the service's keep-alives
EVENTS = "text/event-stream"


class Rest:
    """`patience`: makes a call's, when it begins."""

    def __init__(self, url: str, token: str, patience: Callable[[], Patience]) -> None:
        self.url = url.rstrip("/")
        self._patience = patience
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        )

    def close(self) -> None:
        self._http.close()

    def json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        body: dict[str, Any] = self.answer(method, path, **options).json()
        return body

    def answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        patience = self._patience()
        while True:
            try:
                response = self._http.request(method, path, **options)
                check(response)
            except httpx.TransportError as e:
                patience.wait(f"cannot reach {self.url} ({e}); is the service up?", e)
            except Later as e:
                patience.wait(str(e), e)
            else:
                return response

    def events(
        self, path: str, params: dict[str, str], after: str, over: Callable[[], bool]
    ) -> Iterator[sse.Message]:
        """Those behind `after`; taken up again where the stream was cut, until the caller has
        enough, or a stream ended and it was `over`. One that is quiet for longer than the service's
        keep-alives is taken for cut."""
        patience = self._patience()
        while True:
            headers = {"Accept": EVENTS, **({"Last-Event-ID": after} if after else {})}
            try:
                with self._stream(path, params, headers) as response:
                    self._check_events(response)
                    for message in sse.parse(_heard(response, patience)):
                        after = message.id or after
                        patience.renew()
                        yield message
                if over():
                    return
                patience.wait("the event stream ended early")
            except httpx.TransportError as e:
                patience.wait(f"cannot reach {self.url} ({e}); is the service up?", e)
            except Later as e:
                patience.wait(str(e), e)

    def _check_events(self, response: httpx.Response) -> None:
        kind = response.headers.get("Content-Type", "")
        if not kind.startswith(EVENTS):
            raise Unreachable(
                f"{self.url} answers with {kind or 'nothing named'} where events were asked for: it"
                " is older than this client, or something between changes what it says"
            )

    @contextmanager
    def _stream(
        self, path: str, params: dict[str, str], headers: dict[str, str]
    ) -> Iterator[httpx.Response]:
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, read=STREAM_QUIET_S)
        with self._http.stream(
            "GET", path, params=params, headers=headers, timeout=timeout
        ) as response:
            if response.status_code >= 400:
                response.read()
            check(response)
            yield response


def _heard(response: httpx.Response, patience: Patience) -> Iterator[str]:
    """A keep-alive is a sign of life, but for the first, which every stream begins with: patience
    is for what is wrong, not for what is quiet."""
    for count, text in enumerate(response.iter_text()):
        if count:
            patience.renew()
        yield text


def part(value: str) -> str:
    """Of a path."""
    return quote(value, safe="")
