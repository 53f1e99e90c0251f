"""One exchange, from an admitted request to a settled row, whatever happens in between.

The answer is relayed by a task of its own; a Cut (client gone, attempt ended, stop) cancels that
task, which ends the work upstream. Then this module tells the client how it ended, in the form
that still fits (an error status, or one last event of the stream), and settles the ledger before
the response is finished, so that whoever saw its end finds the row.
Server-sent events are passed on whole, byte for byte. Units: seconds (_s), ms (_ms), tokens.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

from starlette.types import Receive, Scope, Send
from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.log import get_logger
from wfhub_common.messages import TokenInfo

from wfhub_llm_gateway import cuts, ledger, sse, translation, usage
from wfhub_llm_gateway.cuts import Cut
from wfhub_llm_gateway.exchanger import Exchanger, Opened, Progress
from wfhub_llm_gateway.formats import BY_NAME
from wfhub_llm_gateway.formats.asked import (
    UpstreamFailed,
    error_headers,
    json_bytes,
    status_of,
    too_deep,
)
from wfhub_llm_gateway.formats.framing import frames_of
from wfhub_llm_gateway.provider import Answer
from wfhub_llm_gateway.translation.recording import recorded
from wfhub_llm_gateway.usage import Tap

CLIENT_STALL_S = 300.0  # a client takes nothing of what is there for it
RESPONSE_BYTES_MAX = 64 * 1024 * 1024

log = get_logger(__name__)


class ExchangeResponse:
    """An ASGI response that runs the exchange while it is being sent."""

    def __init__(self, exchanger: Exchanger, opened: Opened, digest: str, info: TokenInfo) -> None:
        self._x = exchanger
        self._request = request = opened.request
        self._recorder = opened.recorder
        self._digest = digest  # of the token
        self._info = info
        self._held_up = False  # by a client that takes nothing: then silence is not the model's
        self._format = BY_NAME[request.format]
        tap = Tap(self._format.look, keep_events=opened.recorder is not None)
        self._progress = Progress(
            opened.entry, opened.provider, tap, frames_of(request), opened.keeping
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        relay = asyncio.create_task(self._relay(send))
        cut = Cut(relay)
        watchers = [
            asyncio.create_task(_when_gone(receive, lambda: cut.now(cuts.client_gone()))),
            asyncio.create_task(self._x.tokens.watch(self._digest, cut.now)),
        ]
        if self._progress.entry.counts_time:
            watchers.append(asyncio.create_task(self._watch_time(cut)))
        if self._thinks_unseen:
            watchers.append(asyncio.create_task(self._watch_silence(cut)))
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
        await self._finish(send, _failure(relay, cut, answered=self._progress.status > 0))

    async def _watch_time(self, cut: Cut) -> None:
        """Reserve more time as it goes by, or end it."""
        progress = self._progress
        while True:
            left_ms = progress.entry.granted.wall_ms - progress.elapsed_ms()
            if left_ms > 0:
                await asyncio.sleep(left_ms / 1000)
                continue
            try:
                more = await self._x.ledger.extend(progress.entry, wall_ms=ledger.WALL_RESERVE_MS)
            except WfhubError as e:
                cut.now(e)
                return
            progress.entry = progress.entry.with_more(more)

    @property
    def _thinks_unseen(self) -> bool:
        """What is not streamed has its length limited before it is sent."""
        streams = self._request.stream and self._request.operation == "generate"
        limited = streams and self._progress.entry.counts_tokens
        return limited and self._x.unseen_tokens_per_s > 0

    async def _watch_silence(self, cut: Cut) -> None:
        """Reserve what may be thought in silence, or end it. What the server reports later counts
        in its place; where it reports nothing, this is charged."""
        progress, tap = self._progress, self._progress.tap
        shown = tap.estimated
        while True:
            await asyncio.sleep(usage.UNSEEN_TICK_S)
            if tap.estimated == shown and not self._held_up:
                tap.unseen += round(self._x.unseen_tokens_per_s * usage.UNSEEN_TICK_S)
            shown = tap.estimated
            try:
                await self._extend_tokens(progress)
            except WfhubError as e:
                cut.now(e)
                return

    async def _extend_tokens(self, progress: Progress) -> None:
        """As far as what is spent asks for. Raises: Rejected (`budget-exceeded`)."""
        while progress.missing_tokens > 0:
            tokens = max(ledger.EXTEND_TOKENS, progress.missing_tokens)
            more = await self._x.ledger.extend(progress.entry, tokens=tokens)
            progress.entry = progress.entry.with_more(more)

    async def _relay(self, send: Send) -> None:
        progress = self._progress
        attempt_id = self._info.attempt_id
        async with translation.asking(
            progress.asked_provider, self._request, attempt_id=attempt_id
        ) as answer:
            progress.status, progress.stream = answer.status, answer.stream
            progress.headers = answer.headers
            progress.provider, progress.model = answer.provider, answer.model
            progress.tries = answer.tries
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
            await self._pass_on(events, send)
        if splitter.rest:  # a server that leaves out the last blank line
            await self._pass_on([splitter.rest], send)

    async def _pass_on(self, events: list[bytes], send: Send) -> None:
        """What came in one piece goes on in one: a write costs more than all else here."""
        passed = bytearray()
        try:
            for event in events:
                await self._admit(event)
                passed += self._progress.frames.frame(event)
                self._progress.tap.sent_count += 1
        except WfhubError:
            await self._send(bytes(passed), send)
            raise
        await self._send(bytes(passed), send)

    async def _admit(self, event: bytes) -> None:
        """Raises: UpstreamFailed, Rejected for an event that the client is not to have."""
        progress = self._progress
        progress.tap.event(event)
        if progress.tap.malformed:  # a client would choke on it, and not say why
            raise UpstreamFailed(
                "upstream-malformed", "the model server's stream has an event that is not JSON"
            )
        if progress.entry.counts_tokens:
            await self._extend_tokens(progress)

    async def _send(self, framed: bytes, send: Send) -> None:
        if not framed:
            return
        self._keep(framed)
        self._held_up = True
        try:
            # A client that is slow holds up the server: nothing piles up here.
            async with asyncio.timeout(CLIENT_STALL_S):
                await send({"type": "http.response.body", "body": framed, "more_body": True})
        except TimeoutError as e:
            raise cuts.client_stalled(CLIENT_STALL_S) from e
        finally:
            self._held_up = False

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
            gone = failure.code in cuts.UNTOLD
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
                progress.body[:] = json_bytes(value)
                progress.headers = {"content-type": "application/json"} | error_headers(failure)
            progress.status = status_of(failure)
        elif progress.started:
            tail = progress.frames.end()
            progress.body += tail
        await self._x.settle(progress, self._request, failure.code if failure else "")
        if failure is None:
            self._record()
        elif failure.code in cuts.UNTOLD:
            return
        with suppress(OSError):  # gone in the last moment: the ledger has it all
            if not progress.started:
                await _start(send, progress)
                tail = bytes(progress.body)
            await send({"type": "http.response.body", "body": tail, "more_body": False})

    def _record(self) -> None:
        progress = self._progress
        if self._recorder is None or self._request.operation != "generate":
            return
        headers = {k: v for k, v in progress.headers.items() if k == "content-type"}
        events = progress.tap.events if progress.stream else None
        try:
            self._recorder.add(
                *recorded(self._request, progress.status, headers, bytes(progress.body), events)
            )
        # The client gets its answer all the same.
        except (ValueError, LookupError, TypeError, RecursionError, OSError, WfhubError) as e:
            log.error("exchange not recorded", attempt_id=self._info.attempt_id, error=str(e))


def _failure(relay: asyncio.Task[None], cut: Cut, *, answered: bool) -> WfhubError | None:
    if relay.cancelled():
        return cut.reason or cuts.stopping()
    error = relay.exception()
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return cuts.client_gone()  # from `send`
    if error is None or isinstance(error, WfhubError):
        return error
    if isinstance(error, RecursionError):
        return _answered_too_deep() if answered else too_deep()
    log.error("exchange failed unexpectedly", exc_info=error)
    return Rejected("internal", "the gateway failed; see its log", status=500)


def _answered_too_deep() -> UpstreamFailed:
    message = "the model server's answer is nested too deeply to be read"
    return UpstreamFailed("upstream-malformed", message)


async def _start(send: Send, progress: Progress) -> None:
    progress.started = True
    headers = {"content-type": "application/json", **progress.headers}
    if progress.stream:
        headers |= {"content-type": progress.frames.content_type, "cache-control": "no-cache"}
    else:
        headers["content-length"] = str(len(progress.body))
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": progress.status, "headers": raw})


async def _when_gone(receive: Receive, then: Callable[[], None]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    then()
