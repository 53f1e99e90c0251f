"""Requests to the REST API (httpx), asked again while the service is unreachable or says "later"
(503, 429): so only what is safe to repeat is asked here. Units: seconds.
Raises: Refused, Unreachable (errors.py).
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import httpx

from wfhub_client.patience import Later, Patience, check

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
STREAM_QUIET_S = 45.0  # three of the service's keep-alives
KEEP_ALIVE_S, KEEP_ALIVES_MAX = 15, 2  # of TCP: the first question, then two that nobody answers


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

    @contextmanager
    def stream(
        self,
        path: str,
        params: dict[str, str],
        headers: dict[str, str],
        quiet_s: float | None = STREAM_QUIET_S,
    ) -> Iterator[httpx.Response]:
        """Asked once. Raises: Refused, Later, httpx.TransportError."""
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, read=quiet_s)
        with self._http.stream(
            "GET", path, params=params, headers=headers, timeout=timeout
        ) as response:
            if response.status_code >= 400:
                response.read()
            check(response)
            yield response


def keep_asking(response: httpx.Response) -> None:
    """A peer that is gone without a word ends the connection after STREAM_QUIET_S."""
    connection = response.extensions["network_stream"].get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", None) or socket.TCP_KEEPALIVE  # type: ignore[attr-defined]  # macOS
    for option, value in (
        (idle, KEEP_ALIVE_S),
        (socket.TCP_KEEPINTVL, KEEP_ALIVE_S),
        (socket.TCP_KEEPCNT, KEEP_ALIVES_MAX),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def part(value: str) -> str:
    """Of a path."""
    return quote(value, safe="")
