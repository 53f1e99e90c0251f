"""NATS: one way to make a broker, one way to serve and to ask.

A reply is `{"ok": {...}}` or `{"error": {...}}` (see errors.to_wire). Traps kept in one place:
reconnects never run out (a pull subscriber would spin), a closed connection ends the process
(its supervisor starts it anew), pings are frequent enough to notice a cut.
A subscriber's handler takes one argument, what its decoder returned: FastStream's injection and
its pool of workers cost six times the CPU of a request without them (ADR 14).
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import nats.errors
from faststream import AckPolicy
from faststream.nats import NatsBroker, NatsMessage
from faststream.security import SASLPlaintext
from nats.aio.msg import Msg
from pydantic import BaseModel, ValidationError

from wfhub_common import limits, subjects, tracing
from wfhub_common.errors import Corrupt, Rejected, RetryLater, WfhubError, from_wire, to_wire
from wfhub_common.flood import FloodGate
from wfhub_common.log import get_logger
from wfhub_common.settings import BrokerSettings

PING_INTERVAL_S = 5
RECONNECT_WAIT_S = 1
DRAIN_TIMEOUT_S = 5
SHORT_S = 5.0  # a request that may take longer is given up when its connection is lost
RPC_WORKERS_MAX = 256  # requests of one command at once in one process, waiting ones too
REQUESTS_PER_RUNNER_MAX = 64  # of those; a runner that asks for more holds up itself alone

log = get_logger(__name__)

T = TypeVar("T")
Request = TypeVar("Request", bound=BaseModel)
Reply = TypeVar("Reply", bound=BaseModel)


@dataclass(frozen=True)
class Failure:
    """A handler raised what is no answer. `body` is the request as it came."""

    subject: str
    body: bytes
    error: Exception


class Losses:
    """Tells who waits for an answer that the connection it was asked on is gone: a reply does not
    follow to the next one, and a long poll would wait out its time for nothing."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def happened(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def cut_short(self, answer: Coroutine[Any, Any, T]) -> T:
        """Raises: ConnectionResetError, besides what `answer` raises."""
        lost = asyncio.get_running_loop().create_future()
        asking = asyncio.create_task(answer)
        self._waiting.add(lost)
        try:
            await asyncio.wait({lost, asking}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise ConnectionResetError("the connection was lost while waiting for the answer")
            return asking.result()
        finally:
            self._waiting.discard(lost)
            asking.cancel()


_losses: WeakKeyDictionary[NatsBroker, Losses] = WeakKeyDictionary()


def make_broker(
    settings: BrokerSettings, *, name: str, on_closed: Callable[[], None] | None = None
) -> NatsBroker:
    """`on_closed` runs when the connection is closed for good, an orderly stop included: a
    service's main ends the process there (see service.py)."""

    async def closed() -> None:
        if on_closed is not None:
            on_closed()

    losses = Losses()

    async def lost() -> None:
        losses.happened()
        log.warning("nats disconnected, reconnecting")

    async def back() -> None:
        log.warning("nats reconnected")

    security = None
    if settings.nats_user:
        security = SASLPlaintext(settings.nats_user, settings.nats_password, use_ssl=False)
    broker = NatsBroker(
        settings.nats_url,
        security=security,
        name=name,
        inbox_prefix=f"_INBOX.{settings.nats_user or name}",
        max_reconnect_attempts=-1,
        reconnect_time_wait=RECONNECT_WAIT_S,
        ping_interval=PING_INTERVAL_S,
        drain_timeout=DRAIN_TIMEOUT_S,
        closed_cb=closed,
        disconnected_cb=lost,
        reconnected_cb=back,
        logger=None,
        apply_types=False,
    )
    _losses[broker] = losses
    return broker


async def stop(broker: NatsBroker) -> None:
    """Drain and close. A broker that cannot be reached is as closed as it will be."""
    with suppress(nats.errors.Error, OSError, TimeoutError):
        await broker.stop()


def serve(
    broker: NatsBroker,
    command: str,
    request_type: type[Request],
    handler: Callable[[str, Request], Awaitable[BaseModel]],
    *,
    queue: str,
    workers: int = RPC_WORKERS_MAX,
    on_failure: Callable[[Failure], Awaitable[None]] | None = None,
) -> None:
    """Answer `command` from any sender; see serve_at."""
    serve_at(
        broker,
        subjects.rpc_filter(command),
        request_type,
        handler,
        queue=queue,
        workers=workers,
        on_failure=on_failure,
    )


def serve_at(
    broker: NatsBroker,
    at: str,
    request_type: type[Request],
    handler: Callable[[str, Request], Awaitable[BaseModel]],
    *,
    queue: str,
    workers: int = RPC_WORKERS_MAX,
    on_failure: Callable[[Failure], Awaitable[None]] | None = None,
) -> None:
    """Answer what is asked at the subject `at`; `handler(sender, request)` returns the reply.

    Each request is answered by one process of the queue group. A WfhubError is the answer that
    it names; anything else is logged, told to `on_failure`, and answered as retry-later, since
    nothing was promised. What asks for no reply is not done: nobody would hear of it.
    """
    gate = FloodGate()

    async def answer(subject: str, body: bytes, *, has_reply: bool) -> bytes:
        try:
            if not has_reply:
                raise Rejected("no-reply-subject", f"{subject} asks for no reply; it is a request")
            sender = subjects.rpc_sender(subject)
            request = parsed(request_type, body)
            reply = await handler(sender, request)
        except WfhubError as e:
            if (unsaid := gate.admit(subject, e.code)) is not None:
                fields = {"subject": subject, "error": e.code, "reason": e.message}
                say = log.error if isinstance(e, Corrupt) else log.info
                say("request refused", **fields, about=e.fields, unsaid=unsaid)
            return _error(e)
        except Exception as e:
            if (unsaid := gate.admit(subject, type(e).__name__)) is not None:
                log.exception("request failed", subject=subject, unsaid=unsaid)
            if on_failure is not None:
                await _told(on_failure, Failure(subject, body, e))
            return _error(
                RetryLater("internal", f"{_verb(subject)} failed; it is safe to ask again")
            )
        return b'{"ok":' + reply.model_dump_json().encode() + b"}"

    async def work(raw: Msg) -> None:
        with subscriber.lock:  # an orderly stop waits for it
            with _traced(raw):
                body = await answer(raw.subject, raw.data, has_reply=bool(raw.reply))
            if raw.reply:
                with suppress(nats.errors.Error, OSError):  # the asker asks again
                    await raw.respond(body)

    running: set[asyncio.Task[None]] = set()
    of_runner: Counter[str] = Counter()

    async def take(raw: Msg) -> None:
        if of_runner[raw.subject] >= REQUESTS_PER_RUNNER_MAX:
            await _refused(raw, gate)
            return
        while len(running) >= workers:  # holds the subscription back
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(work(raw))
        running.add(task)
        if subjects.rpc_sender(raw.subject) not in subjects.SERVICES:
            of_runner[raw.subject] += 1
            task.add_done_callback(lambda _: _less(of_runner, raw.subject))
        task.add_done_callback(running.discard)

    subscriber = broker.subscriber(
        at,
        queue=queue,
        decoder=_raw,
        no_reply=True,
        ack_policy=AckPolicy.MANUAL,
    )
    subscriber(take)

    async def consume(msg: Msg) -> None:
        if subscriber.running:
            with subscriber.lock:
                await take(msg)

    # Past the middlewares, contexts and log records that FastStream makes for each message, of
    # which nothing here needs any: most of what a request cost besides its handler (ADR 62).
    subscriber.consume = consume  # type: ignore[method-assign]


async def _refused(raw: Msg, gate: FloodGate) -> None:
    if (unsaid := gate.admit(raw.subject, "too-many-requests")) is not None:
        log.warning("too many requests at once", subject=raw.subject, unsaid=unsaid)
    if raw.reply:
        said = f"{REQUESTS_PER_RUNNER_MAX} of this runner are being answered; ask again later"
        with suppress(nats.errors.Error, OSError):
            await raw.respond(_error(RetryLater("too-many-requests", said)))


def _less(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


async def ask(
    broker: NatsBroker,
    sender: str,
    command: str,
    request: BaseModel,
    reply_type: type[Reply],
    *,
    timeout_s: float = 5.0,
) -> Reply:
    """Raises: RetryLater when nobody answers in time, else the error that the answer carries."""
    subject = subjects.rpc(sender, command)
    return await ask_at(broker, subject, request, reply_type, timeout_s=timeout_s)


async def ask_at(
    broker: NatsBroker,
    subject: str,
    request: BaseModel,
    reply_type: type[Reply],
    *,
    timeout_s: float = 5.0,
) -> Reply:
    """Raises: as `ask`."""
    command = _verb(subject)
    body = request.model_dump_json().encode()
    if len(body) > limits.RPC_BYTES_MAX:
        raise Rejected(
            "request-too-large",
            f"{command} would be {len(body)} bytes; the limit is {limits.RPC_BYTES_MAX}",
            status=413,
        )
    try:
        headers = tracing.headers()
        asking = broker.connection.request(subject, body, timeout=timeout_s, headers=headers)
        losses = _losses.get(broker) if timeout_s > SHORT_S else None
        message = await (losses.cut_short(asking) if losses else asking)
    except nats.errors.NoRespondersError as e:
        raise RetryLater("no-responders", f"no service is up that answers {command}") from e
    except (TimeoutError, nats.errors.TimeoutError) as e:
        raise RetryLater("timeout", f"{command} was not answered within {timeout_s} s") from e
    except (nats.errors.Error, OSError) as e:
        raise RetryLater("broker-down", f"cannot reach the broker for {command}: {e}") from e
    return decode_reply(message.data, reply_type)


def _verb(subject: str) -> str:
    return subject.rpartition(".")[2]


def decode_reply(body: bytes, reply_type: type[Reply]) -> Reply:
    envelope = _Envelope.model_validate_json(body)
    if envelope.error is not None:
        raise from_wire(envelope.error)
    return reply_type.model_validate(envelope.ok)


class _Envelope(BaseModel):
    ok: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


@contextmanager
def _traced(raw: Msg) -> Iterator[None]:
    """As a part of the trace that the message names, if it does."""
    parent = tracing.parsed(raw.headers.get(tracing.HEADER)) if raw.headers else ""
    if not parent:
        yield
        return
    with tracing.within(parent), tracing.span(_verb(raw.subject), tracing.SERVER):
        yield


async def _raw(message: NatsMessage) -> Msg:
    return message.raw_message


async def _told(on_failure: Callable[[Failure], Awaitable[None]], failure: Failure) -> None:
    try:
        await on_failure(failure)
    except Exception as e:  # noqa: BLE001 - the asker is answered whether it was counted or not
        log.warning("failure not counted", subject=failure.subject, why=str(e))


def parsed(request_type: type[Request], body: bytes) -> Request:
    """Raises: Rejected (`request-malformed`)."""
    try:
        return request_type.model_validate_json(body)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Rejected(
            "request-malformed", f"{request_type.__name__}.{where}: {first['msg']}"
        ) from e


def _error(error: WfhubError) -> bytes:
    return _Envelope(error=to_wire(error)).model_dump_json(exclude_none=True).encode()
