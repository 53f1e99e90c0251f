"""The egress proxy: an attempt's second way out of its sandbox, for a task that asked for one.

An HTTP proxy on a unix socket. `CONNECT host:port` (for TLS, whose content it does not see) and
plain `GET http://host/…` pass the same check (egress_policy). One request a connection, so nothing
can follow the one that was checked; requests and answers are parsed and written anew (h11).
Shape: `async with EgressProxy(…) as proxy`; leaving it cuts every connection and writes the log.
Errors are answered as HTTP with a sentence in plain text. Bounded by EgressLimits.
"""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h11
from wfhub_common.egress import Endpoint

from wfhub_agent_runner.egress_http import (
    CHUNK_BYTES,
    CLOSE_S_MAX,
    NOT_FORWARDED,
    Side,
    asked,
    forwarded,
)
from wfhub_agent_runner.egress_log import EgressLog
from wfhub_agent_runner.egress_policy import (
    EgressPolicy,
    EgressRefused,
    Resolve,
    connect,
    system_resolver,
)
from wfhub_agent_runner.relay import listen

EGRESS_CONNECTIONS_MAX = 64  # at once
EGRESS_HEADER_BYTES_MAX = 32 * 1024  # of a request, and of an answer to a plain one
EGRESS_HEADER_S_MAX = 30.0  # until a request's header is there
EGRESS_IDLE_S_MAX = 300.0  # without a byte in either direction
EGRESS_BYTES_MAX = 8 * 1024**3  # of an attempt, both directions together
RESOLVER_THREADS = 4

_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_TOO_MANY = b"HTTP/1.1 503 Too many connections\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True)
class EgressLimits:
    connections_max: int = EGRESS_CONNECTIONS_MAX
    header_bytes_max: int = EGRESS_HEADER_BYTES_MAX
    header_s_max: float = EGRESS_HEADER_S_MAX
    idle_s_max: float = EGRESS_IDLE_S_MAX
    bytes_max: int = EGRESS_BYTES_MAX


class EgressProxy:
    """`socket_path` must not exist, in a folder that only the runner may enter."""

    def __init__(
        self,
        *,
        socket_path: Path,
        log_path: Path,
        policy: EgressPolicy,
        resolve: Resolve | None = None,
        limits: EgressLimits | None = None,
    ) -> None:
        self.socket_path = socket_path
        self.log = EgressLog(log_path)
        self.bytes_used = 0
        self.connections_most = 0  # that were open at once
        self._policy = policy
        self._limits = limits or EgressLimits()
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="egress-names")
        self._resolve = resolve or system_resolver(self._threads)
        self._last_at = 0.0
        self._open: set[asyncio.Task[Any]] = set()
        self._closing = False

    def active_at(self) -> float:
        """When (time.monotonic) a byte last passed. An open connection alone is no sign of life."""
        return self._last_at

    @property
    def connections_open(self) -> int:
        return len(self._open)

    async def __aenter__(self) -> Self:
        listener = listen(self.socket_path)
        self._server = await asyncio.start_unix_server(
            self._serve, sock=listener, limit=CHUNK_BYTES
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        self.socket_path.unlink(missing_ok=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.log.write()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._closing:
            writer.transport.abort()
            return
        if len(self._open) >= self._limits.connections_max:
            self.log.add(target="", allowed=False, reason="too-many-connections")
            writer.write(_TOO_MANY)
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self.connections_most = max(self.connections_most, len(self._open))
        near = Side(h11.SERVER, reader, writer, self._limits.header_bytes_max)
        exchange = _Exchange(self, near)
        try:
            await exchange.run()
            await near.linger()
            await near.close()
        except asyncio.CancelledError:
            exchange.cut()
        finally:
            writer.transport.abort()
            self._open.discard(task)
            exchange.tell(self.log)


class _Ended(Exception):
    """The exchange was cut after it was allowed; the word for the log."""


class _Exchange:
    """One connection of the agent's: a request, the decision about it, and what came of it."""

    def __init__(self, proxy: EgressProxy, near: Side) -> None:
        self._proxy, self._near = proxy, near
        self._limits = proxy._limits
        self._began = time.monotonic()
        self._timer: asyncio.Timeout | None = None
        self._target: Endpoint | None = None
        self._address = ""
        self._sent_bytes = self._received_bytes = 0
        self._allowed = False
        self.ended = ""  # empty: there was no request to decide about

    def cut(self) -> None:
        if self._target is not None and not self.ended:
            self.ended = "attempt-ended"

    def tell(self, log: EgressLog) -> None:
        if self.ended:
            log.add(
                target=str(self._target or ""),
                allowed=self._allowed,
                reason=self.ended,
                address=self._address,
                sent_bytes=self._sent_bytes,
                received_bytes=self._received_bytes,
                duration_s=time.monotonic() - self._began,
            )

    async def run(self) -> None:
        """Raises: CancelledError only."""
        try:
            await self._decide_and_pass()
        except EgressRefused as e:
            self.ended = e.reason
            await self._answer(e)
        except _Ended as e:
            self.ended = str(e)
        except TimeoutError:
            self.ended = "idle"
            idle_s = self._limits.idle_s_max
            await self._answer(EgressRefused(504, "idle", f"nothing was sent for {idle_s:.0f} s"))
        except (OSError, h11.ProtocolError):
            self.ended = "broken"
            refused = EgressRefused(502, "broken", "the other side broke the connection or HTTP")
            await self._answer(refused)

    async def _answer(self, refused: EgressRefused) -> None:
        """Where nothing was answered yet; else the cut itself is the answer."""
        if self._near.http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        body = f"{refused.message}\n".encode()
        headers = [
            ("content-type", "text/plain; charset=utf-8"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        head = h11.Response(status_code=refused.status, headers=headers, reason=b"Egress refused")
        with contextlib.suppress(OSError, h11.ProtocolError):
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._near.send(head)
                await self._near.send(h11.Data(data=body))

    async def _decide_and_pass(self) -> None:
        request = await self._request()
        if request is None:
            return
        self._target, path = asked(request)
        if self._proxy.bytes_used >= self._limits.bytes_max:
            message = f"this attempt has used its {self._limits.bytes_max} bytes of egress"
            raise EgressRefused(403, "bytes-limit", message)
        found = await self._proxy._policy.addresses_of(self._target, self._proxy._resolve)
        reader, writer = await connect(self._target, found, buffer_bytes=CHUNK_BYTES)
        self._allowed = True
        self._address = str(writer.get_extra_info("peername")[0])
        far = Side(h11.CLIENT, reader, writer, self._limits.header_bytes_max)
        try:
            async with asyncio.timeout(self._limits.idle_s_max) as self._timer:
                if path is None:
                    await self._tunnel(far)
                else:
                    await self._forward(far, request, path)
            await far.close()
            self.ended = "complete"
        finally:
            writer.transport.abort()

    async def _request(self) -> h11.Request | None:
        """None: it left without one."""
        try:
            async with asyncio.timeout(self._limits.header_s_max):
                event = await self._near.event()
        except TimeoutError as e:
            message = f"no request within {self._limits.header_s_max:.0f} s"
            raise EgressRefused(408, "no-request", message) from e
        except h11.RemoteProtocolError as e:
            reason = "header-too-large" if e.error_status_hint == 431 else "malformed"
            raise EgressRefused(e.error_status_hint, reason, f"not a request: {e}") from e
        return event if isinstance(event, h11.Request) else None

    def _moved(self, *, sent: int = 0, received: int = 0) -> None:
        self._sent_bytes += sent
        self._received_bytes += received
        self._proxy.bytes_used += sent + received
        self._proxy._last_at = time.monotonic()
        if self._proxy.bytes_used > self._limits.bytes_max:
            raise _Ended("bytes-limit")
        if self._timer is not None:
            self._timer.reschedule(asyncio.get_running_loop().time() + self._limits.idle_s_max)

    async def _tunnel(self, far: Side) -> None:
        near = self._near
        early, closed = near.http.trailing_data
        near.http.send_failed()  # what follows is not HTTP
        near.writer.write(_ESTABLISHED)
        if early:
            self._moved(sent=len(early))
            far.writer.write(early)
        await near.writer.drain()

        async def out() -> None:
            while not closed and (chunk := await near.reader.read(CHUNK_BYTES)):
                self._moved(sent=len(chunk))
                far.writer.write(chunk)
                await far.writer.drain()
            far.writer.write_eof()

        async def back() -> None:
            while chunk := await far.reader.read(CHUNK_BYTES):
                self._moved(received=len(chunk))
                near.writer.write(chunk)
                await near.writer.drain()
            near.writer.write_eof()

        await _both(asyncio.create_task(out()), asyncio.create_task(back()))

    async def _forward(self, far: Side, request: h11.Request, path: bytes) -> None:
        assert self._target is not None
        await far.send(
            h11.Request(
                method=request.method, target=path, headers=forwarded(request, self._target)
            )
        )
        uploading = asyncio.create_task(self._upload(far))
        answering = asyncio.create_task(self._pass_answer(far))
        answering.add_done_callback(lambda _: uploading.cancel())  # an answer may come early
        await _both(uploading, answering)

    async def _upload(self, far: Side) -> None:
        near = self._near
        if near.http.they_are_waiting_for_100_continue:
            await near.send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            event = await near.event()
            if isinstance(event, h11.Data):
                self._moved(sent=len(event.data))
                await far.send(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await far.send(h11.EndOfMessage())
                return
            else:
                raise ConnectionResetError("the agent left")

    async def _pass_answer(self, far: Side) -> None:
        while True:
            event = await far.event()
            if isinstance(event, h11.Response):
                kept = [(k, v) for k, v in event.headers if k not in NOT_FORWARDED]
                head = h11.Response(
                    status_code=event.status_code,
                    headers=[*kept, (b"connection", b"close")],
                    reason=event.reason,
                )
                await self._near.send(head)
            elif isinstance(event, h11.Data):
                self._moved(received=len(event.data))
                await self._near.send(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._near.send(h11.EndOfMessage())
                return
            elif not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("the server left")


async def _both(*tasks: asyncio.Task[None]) -> None:
    """Until both are done, or one fails; a cancelled one is done."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
