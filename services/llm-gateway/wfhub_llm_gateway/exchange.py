"""One exchange, from an admitted request to a settled row, whatever happens in between.

The answer is relayed by a task of its own; a Cut (client gone, attempt ended, stop) cancels that
task, which ends the work upstream. Then this module tells the client how it ended, in the form
that still fits (an error status, or one last event of the stream), and settles the ledger before
the response is finished, so that whoever saw its end finds the row.
Server-sent events are passed on whole, byte for byte. Units: seconds (_s), ms (_ms), tokens.
"""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.types import Receive, Scope, Send
from wfhub_common import digests
from wfhub_common.errors import Rejected, RetryLater, WfhubError
from wfhub_common.log import get_logger
from wfhub_common.messages import TokenInfo

from wfhub_llm_gateway import cuts, ledger, sse, translation
from wfhub_llm_gateway.cassette import Response
from wfhub_llm_gateway.cuts import Cut, OpenStreams
from wfhub_llm_gateway.formats import BY_NAME
from wfhub_llm_gateway.formats.asked import Asked, UpstreamFailed, error_headers, status_of
from wfhub_llm_gateway.formats.framing import Frames, frames_of
from wfhub_llm_gateway.ledger import Entry, Ledger, Settlement
from wfhub_llm_gateway.provider import Answer, Provider
from wfhub_llm_gateway.recorder import Recorder
from wfhub_llm_gateway.spool import Spool
from wfhub_llm_gateway.tokens import Tokens
from wfhub_llm_gateway.usage import Tap

RESPONSE_BYTES_MAX = 64 * 1024 * 1024
SETTLE_RETRIES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # after the client was answered

_COSTLY = (cuts.CLIENT_GONE, "token-inactive", "gateway-stopping", "upstream-timeout")

log = get_logger(__name__)


@dataclass
class Progress:
    """What the client was given so far."""

    entry: Entry
    tap: Tap
    frames: Frames
    body: bytearray = field(default_factory=bytearray)
    status: int = 0
    stream: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    started: bool = False  # the status line is out: an error must be an event
    first_byte_ms: int | None = None
    clock: float = field(default_factory=time.monotonic)

    def elapsed_ms(self) -> int:
        return round((time.monotonic() - self.clock) * 1000)


@dataclass
class Exchanger:
    """Everything an exchange needs; one a process."""

    provider: Provider
    ledger: Ledger
    tokens: Tokens
    streams: OpenStreams
    spool: Spool
    recorder: Recorder | None
    late: set[asyncio.Task[None]] = field(default_factory=set)  # settlements still to be written

    async def open(self, request: Asked, info: TokenInfo) -> Entry:
        """The row, before the model is asked. Raises: Rejected (429), RetryLater."""
        prompt, wanted = request.prompt_estimate, 0
        if request.operation == "generate":
            wanted = request.completion_max or ledger.COMPLETION_RESERVE_TOKENS
        elif request.operation == "count":
            prompt = -1  # costs nothing, and may be asked when nothing is left
        entry = await self.ledger.open(
            ledger.Opening(
                attempt_id=info.attempt_id,
                task_id=info.task_id,
                project_id=info.project_id,
                provider=self.provider.name,
                model=request.model,
                replayed=self.provider.replayed,
                stream=request.stream,
                request_digest=digests.of_bytes(request.raw),
                request_bytes=len(request.raw),
                started_at=datetime.now(UTC),
                budget_tokens=info.budget_tokens,
                tokens_min=prompt + 1,
                tokens_wanted=max(0, prompt + wanted),
            )
        )
        await self.spool.add(request.raw)  # not sooner: a refused request takes no disk
        return entry

    async def settle(self, progress: Progress, request: Asked, code: str) -> None:
        response_digest = await self.spool.add(bytes(progress.body))
        settlement = settled(progress, request, code, response_digest, self.provider.note)
        try:
            await self.ledger.settle(progress.entry, settlement)
        except RetryLater as e:
            log.error("settlement waits", attempt_id=progress.entry.attempt_id, why=str(e))
            task = asyncio.create_task(self._settle_later(progress.entry, settlement))
            self.late.add(task)
            task.add_done_callback(self.late.discard)

    async def _settle_later(self, entry: Entry, settlement: Settlement) -> None:
        for pause_s in SETTLE_RETRIES_S:
            await asyncio.sleep(pause_s)
            with suppress(RetryLater):
                await self.ledger.settle(entry, settlement)
                return
        log.error("settlement lost", attempt_id=entry.attempt_id, seq=entry.seq, **vars(settlement))


class ExchangeResponse:
    """An ASGI response that runs the exchange while it is being sent."""

    def __init__(
        self, exchanger: Exchanger, request: Asked, digest: str, info: TokenInfo, entry: Entry
    ) -> None:
        self._x = exchanger
        self._request = request
        self._digest = digest  # of the token
        self._info = info
        self._format = BY_NAME[request.format]
        tap = Tap(self._format.look, keep_events=exchanger.recorder is not None)
        self._progress = Progress(entry, tap, frames_of(request))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        relay = asyncio.create_task(self._relay(send))
        cut = Cut(relay)
        watchers = [
            asyncio.create_task(_when_gone(receive, lambda: cut.now(cuts.client_gone()))),
            asyncio.create_task(self._x.tokens.watch(self._digest, self._info, cut.now)),
        ]
        with self._x.streams.opened(self._info.attempt_id, cut):
            if self._x.tokens.is_ended(self._info.attempt_id):  # between the check and here
                cut.now(cuts.attempt_ended())
            try:
                await asyncio.wait({relay})
            except asyncio.CancelledError:  # the server stops
                cut.now(cuts.stopping())
                await asyncio.wait({relay})
            finally:
                for watcher in watchers:
                    watcher.cancel()
        await self._finish(send, _failure(relay, cut))

    async def _relay(self, send: Send) -> None:
        progress = self._progress
        attempt_id = self._info.attempt_id
        async with translation.asking(
            self._x.provider, self._request, attempt_id=attempt_id
        ) as answer:
            progress.status, progress.stream = answer.status, answer.stream
            progress.headers = answer.headers
            progress.first_byte_ms = progress.elapsed_ms()
            if answer.stream:
                await self._relay_events(answer, send)
            else:
                async for chunk in answer.chunks:
                    self._keep(chunk)
        if not progress.stream:
            with suppress(ValueError, RecursionError):  # an error page need not be JSON
                progress.tap.whole(json.loads(progress.body))

    async def _relay_events(self, answer: Answer, send: Send) -> None:
        progress = self._progress
        await _start(send, progress)
        splitter = sse.Splitter()
        async for chunk in answer.chunks:
            try:
                events = list(splitter.feed(chunk))
            except ValueError as e:
                raise UpstreamFailed("upstream-malformed", f"the model server: {e}") from e
            for event in events:
                await self._pass_on(event, send)
        if splitter.rest:  # a server that leaves out the last blank line
            await self._pass_on(splitter.rest, send)

    async def _pass_on(self, event: bytes, send: Send) -> None:
        progress, request = self._progress, self._request
        progress.tap.event(event)
        if progress.entry.budget_tokens is not None:
            taken = request.prompt_estimate + progress.tap.estimated
            while taken > progress.entry.granted_tokens:
                progress.entry = await self._x.ledger.extend(progress.entry)
        framed = progress.frames.frame(event)
        self._keep(framed)
        await send({"type": "http.response.body", "body": framed, "more_body": True})

    def _keep(self, chunk: bytes) -> None:
        self._progress.body += chunk
        if len(self._progress.body) > RESPONSE_BYTES_MAX:
            raise UpstreamFailed(
                "response-too-large",
                f"the model's answer is over {RESPONSE_BYTES_MAX} bytes, the most passed on",
            )

    async def _finish(self, send: Send, failure: WfhubError | None) -> None:
        """Tell the client, settle, end the response; in that order."""
        progress, tail = self._progress, b""
        if failure is not None:
            log.info(
                "exchange failed",
                attempt_id=self._info.attempt_id,
                seq=progress.entry.seq,
                code=failure.code,
                reason=failure.message,
            )
            gone = failure.code == cuts.CLIENT_GONE
            if progress.started:
                if not gone:
                    event = self._format.error_event(failure, progress.tap)
                    tail = progress.frames.frame(event) + progress.frames.end()
                progress.body += tail
            elif gone:
                progress.body.clear()  # what came from upstream was not passed on
            else:
                progress.stream = False
                value = self._format.error_value(failure)
                progress.body[:] = json.dumps(value, ensure_ascii=False).encode()
                progress.headers = {"content-type": "application/json"} | error_headers(failure)
            progress.status = status_of(failure)
        elif progress.started:
            tail = progress.frames.end()
            progress.body += tail
        await self._x.settle(progress, self._request, failure.code if failure else "")
        if failure is None:
            self._record()
        elif failure.code == cuts.CLIENT_GONE:
            return
        with suppress(OSError):  # gone in the last moment: the ledger has it all
            if not progress.started:
                await _start(send, progress)
                tail = bytes(progress.body)
            await send({"type": "http.response.body", "body": tail, "more_body": False})

    def _record(self) -> None:
        progress = self._progress
        if self._x.recorder is None or self._request.format != "chat":
            return
        headers = {k: v for k, v in progress.headers.items() if k == "content-type"}
        try:
            if progress.stream:
                events = tuple(progress.tap.events)
                response = Response(progress.status, True, None, events, headers)
            else:
                body = json.loads(progress.body)
                response = Response(progress.status, False, body, (), headers)
            self._x.recorder.add(self._request.value, response)
        # The client gets its answer all the same.
        except (ValueError, RecursionError, OSError) as e:
            log.error("exchange not recorded", attempt_id=self._info.attempt_id, error=str(e))


def settled(
    progress: Progress, request: Asked, code: str, response_digest: str, provider_note: str
) -> Settlement:
    """What the ledger will say. Usage that was not reported is null there; the budget is charged
    our estimate instead, unless nothing of an answer came."""
    tap = progress.tap
    costs = request.operation != "count" and _may_have_cost(progress, code)
    estimate = request.prompt_estimate + tap.estimated if costs else 0
    unreported = ledger.NO_USAGE if tap.reported is None and estimate else ""
    return Settlement(
        status=progress.status,
        code=code,
        model=request.model or tap.model,
        response_digest=response_digest,
        response_bytes=len(progress.body),
        prompt_tokens=tap.reported.prompt if tap.reported else None,
        completion_tokens=tap.reported.completion if tap.reported else None,
        charged_tokens=tap.reported.total if tap.reported else estimate,
        first_byte_ms=progress.first_byte_ms,
        duration_ms=progress.elapsed_ms(),
        note="; ".join(filter(None, (provider_note, code, unreported))),
    )


def _may_have_cost(progress: Progress, code: str) -> bool:
    if code:  # broken off: the prompt was read unless the provider refused it outright
        return progress.started or code in _COSTLY
    return 200 <= progress.status < 300


def _failure(relay: asyncio.Task[None], cut: Cut) -> WfhubError | None:
    if relay.cancelled():
        return cut.reason or cuts.stopping()
    error = relay.exception()
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return cuts.client_gone()  # from `send`
    if error is None or isinstance(error, WfhubError):
        return error
    log.error("exchange failed unexpectedly", exc_info=error)
    return Rejected("internal", "the gateway failed; see its log", status=500)


async def _start(send: Send, progress: Progress) -> None:
    progress.started = True
    headers = {"content-type": "application/json", **progress.headers}
    if progress.stream:
        headers |= {"content-type": progress.frames.content_type, "cache-control": "no-cache"}
    else:
        headers["content-length"] = str(len(progress.body))
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": progress.status, "headers": raw})


async def _when_gone(receive: Receive, then: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    then()
