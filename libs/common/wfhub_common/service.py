"""The edge of a service process: signals, readiness, HTTP, orderly stop.

`run(main)` gives `main` a Stop to wait on. SIGTERM and SIGINT ask for an orderly stop; a second
one, or STOP_GRACE_S later, ends the process.
"""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import uvicorn

from wfhub_common.log import get_logger

STOP_GRACE_S = 15.0
BEAT_S = 5.0
HTTP_BACKLOG = 1024
HTTP_CONCURRENCY_MAX = 2048
HTTP_KEEP_ALIVE_S = 75
# Objects allocated between two looks for garbage cycles. Python's own 700 cost a busy service a
# sixth of its CPU, looking at what lives as long as the process.
GC_THRESHOLDS = (50_000, 20, 100)

log = get_logger(__name__)


@dataclass
class Stop:
    """Set once: the process should end. `why` is for the log; `fatal` is the last word of a process
    that nobody asked to end."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    why: str = ""
    fatal: str = ""

    def __call__(self, why: str = "asked to stop") -> None:
        if not self.event.is_set():
            self.why = why
            self.event.set()

    def fatally(self, why: str) -> None:
        """After an orderly stop the process ends with 1, and `why` as its last line."""
        if not self.event.is_set():
            self.fatal = why
        self(why)

    async def wait(self) -> None:
        await self.event.wait()


def run(main: Callable[[Stop], Awaitable[None]]) -> None:
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    asyncio.run(_run(main))


async def _run(main: Callable[[Stop], Awaitable[None]]) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()

    def asked(name: str) -> None:
        if stop.event.is_set():
            os._exit(1)
        stop(f"signal {name}")
        loop.call_later(STOP_GRACE_S, os._exit, 1)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked, number.name)
    try:
        await main(stop)
    except SystemExit:
        if not stop.fatal:
            raise
    if stop.fatal:
        raise SystemExit(stop.fatal)
    log.info("stopped", why=stop.why)


async def beat(file: Path | None) -> None:
    """Touch `file` for as long as the event loop turns: the sign of life of a process that serves
    no HTTP. Its first touch says that the process is ready. Never ends by itself."""
    while True:
        if file is not None:
            await asyncio.to_thread(file.touch)
        await asyncio.sleep(BEAT_S)


def listen(address: str, *, setting: str = "HTTP_LISTEN") -> socket.socket:
    """A listening socket for `host:port` or `fd:N` (inherited from a supervisor).
    Raises: SystemExit that names the address, and its setting, when the port is in use."""
    if address.startswith("fd:"):
        try:
            return _prompt(socket.socket(fileno=int(address.removeprefix("fd:"))))
        except OSError as e:
            raise SystemExit(
                f"bad settings: {setting}: {address} is no socket that we were given: {e.strerror}"
            ) from e
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(HTTP_BACKLOG)
    except (OSError, ValueError) as e:
        raise SystemExit(f"cannot listen on {address}: {e}; choose another with {setting}") from e
    return _prompt(listener)


def _prompt(listener: socket.socket) -> socket.socket:
    """Its connections inherit this. asyncio sets it only where the protocol number was named, and
    without it an answer's body waits 40 ms for the acknowledgement of its head."""
    if listener.family in {socket.AF_INET, socket.AF_INET6}:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def serve_http(
    app: Any,
    address: str,
    stop: Stop,
    *,
    setting: str = "HTTP_LISTEN",
    http: Literal["h11", "httptools"] = "h11",
) -> None:
    """Serve an ASGI app until `stop`; open requests get STOP_GRACE_S / 2 to finish. `httptools`
    reads HTTP for a third of what h11 takes, and is native code: for who has much to read.
    An address that cannot be had is the end of the process."""
    try:
        listener = listen(address, setting=setting)
    except SystemExit as e:  # of one task among others: they are to end in order
        stop.fatally(str(e))
        return
    config = uvicorn.Config(
        app,
        http=http,
        log_config=None,
        access_log=False,
        lifespan="on",
        limit_concurrency=HTTP_CONCURRENCY_MAX,
        timeout_keep_alive=HTTP_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(STOP_GRACE_S / 2),
        server_header=False,
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    stop("http server ended")
    await serving
    stopping.cancel()


class Server(uvicorn.Server):
    """Signals are the process's (`run`), not its."""

    def capture_signals(self) -> Any:
        import contextlib

        return contextlib.nullcontext()
