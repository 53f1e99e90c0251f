"""What an exchange is opened with and settled as, whatever happens in between (exchange.py).

Bodies are stored without what looks like a secret, and digests are of what is stored.
Units: tokens, nano-USD, ms.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from wfhub_common import digests, redaction
from wfhub_common.errors import RetryLater
from wfhub_common.log import get_logger
from wfhub_common.messages import SpendingLimit, TokenInfo

from wfhub_llm_gateway import cuts, ledger, usage
from wfhub_llm_gateway.budgets import refusals
from wfhub_llm_gateway.budgets.prices import FREE
from wfhub_llm_gateway.budgets.pricing import Pricing
from wfhub_llm_gateway.cuts import OpenStreams
from wfhub_llm_gateway.formats.asked import Asked
from wfhub_llm_gateway.formats.clamping import clamped
from wfhub_llm_gateway.formats.framing import Frames
from wfhub_llm_gateway.last_word import LastWord, LastWordProvider
from wfhub_llm_gateway.ledger import Entry, Ledger
from wfhub_llm_gateway.metrics import Metrics
from wfhub_llm_gateway.provider import Provider
from wfhub_llm_gateway.recorder import Recorder
from wfhub_llm_gateway.settlements import Settlement
from wfhub_llm_gateway.spans import Spans
from wfhub_llm_gateway.spool import Keeping, Spool
from wfhub_llm_gateway.tapes import Tapes
from wfhub_llm_gateway.tokens import Tokens
from wfhub_llm_gateway.usage import Tap

INLINE_BYTES_MAX = 64 * 1024  # of a body that is looked through for secrets without a thread
SETTLE_RETRIES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # after the client was answered

_COSTLY = (*cuts.UNTOLD, "token-inactive", "gateway-stopping", "upstream-timeout")

log = get_logger(__name__)


@dataclass(frozen=True)
class Opened:
    """An admitted request: as far as its budget allows, and who is to answer it."""

    entry: Entry
    request: Asked
    provider: Provider
    recorder: Recorder | None
    keeping: Keeping  # the request's body


@dataclass
class Progress:
    """What the client was given so far."""

    entry: Entry
    asked_provider: Provider
    tap: Tap
    frames: Frames
    keeping: Keeping
    body: bytearray = field(default_factory=bytearray)
    status: int = 0
    stream: bool = False
    provider: str = ""  # that answered, where there are several
    model: str = ""
    tries: tuple[str, ...] = ()  # of others, before it
    headers: dict[str, str] = field(default_factory=dict)
    started: bool = False  # the status line is out: an error must be an event
    first_byte_ms: int | None = None
    clock: float = field(default_factory=time.monotonic)

    @property
    def missing_tokens(self) -> int:
        """What came beyond what was granted."""
        return self.tap.spent - self.entry.granted.completion

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
    pricing: Pricing
    tapes: Tapes
    secrets: tuple[str, ...] = ()
    metrics: Metrics = field(default_factory=Metrics)
    spans: Spans | None = None
    unseen_tokens_per_s: float = usage.UNSEEN_TOKENS_PER_S
    late: set[asyncio.Task[None]] = field(default_factory=set)  # settlements still to be written

    def __post_init__(self) -> None:
        watch = self.metrics.watch
        watch("open_exchanges", "Exchanges that are open.", lambda: self.streams.count)
        watch(
            "spool_bytes", "Bodies that wait for the proof-store.", lambda: self.spool.waiting_bytes
        )
        watch("late_settlements", "Settlements that wait for the database.", lambda: len(self.late))

    async def open(self, request: Asked, info: TokenInfo, word: LastWord | None = None) -> "Opened":
        """Before the model is asked; with a `word`, none is. Raises: Rejected (429), RateLimited,
        RetryLater."""
        limits = limits_of(info)
        replay, recorder = await self.tapes.of(info)
        provider = replay or self.provider
        if word is not None and request.operation == "generate":
            provider, recorder = LastWordProvider(word), None
        asks = provider.candidates(request.model)
        costs = not free(request, provider)
        prompt, completion = reserve(request) if costs else (0, 0)
        price = self.pricing.highest(asks, prompt)
        if costs and price is None and any(limit.nusd is not None for limit in limits):
            raise refusals.price_unknown(request.model)
        kept = await self.keep(request.raw)
        entry = await self.ledger.open(
            ledger.Opening(
                attempt_id=info.attempt_id,
                task_id=info.task_id,
                project_id=info.project_id,
                provider=provider.name,
                model=request.model,
                replayed=provider.replayed,
                stream=request.stream,
                request_digest=digests.of_bytes(kept),
                request_bytes=len(request.raw),
                started_at=datetime.now(UTC),
                prompt=prompt,
                completion=completion,
                limits=limits,
                price=price or FREE,
            )
        )
        # Not sooner: a refused request takes no disk. The model is asked meanwhile.
        keeping = Keeping(self.spool, kept)
        if entry.counts_tokens and completion and not request.stream:
            request = clamped(request, entry.granted.completion)
        if not isinstance(provider, LastWordProvider):
            recorder = recorder or self.recorder
        return Opened(entry, request, provider, recorder, keeping)

    async def keep(self, body: bytes) -> bytes:
        """As it is stored: without what looks like a secret, or is one of ours."""
        if len(body) < INLINE_BYTES_MAX:
            return redaction.redacted_bytes(body, self.secrets)
        return await asyncio.to_thread(redaction.redacted_bytes, body, self.secrets)

    async def settle(self, progress: Progress, request: Asked, code: str) -> None:
        kept = await self.keep(bytes(progress.body))
        settlement = self.settled(progress, request, code, digests.of_bytes(kept))
        self.metrics.settled(settlement, progress.tries)
        if self.spans is not None:
            opening = progress.entry.opening
            self.spans.settled(request, opening, settlement, progress.tap.model)
        # Before the row says so: what it names is there, whoever is killed.
        await progress.keeping.with_more(kept, ledger.record(progress.entry, settlement))
        try:
            await self._settle(progress.entry, settlement)
        except RetryLater as e:
            log.error("settlement waits", attempt_id=progress.entry.attempt_id, why=str(e))
            task = asyncio.create_task(self._settle_later(progress.entry, settlement))
            self.late.add(task)
            task.add_done_callback(self.late.discard)

    async def _settle(self, entry: Entry, settlement: Settlement) -> None:
        remade = await self.ledger.settle(entry, settlement)
        if remade is not None:
            await self.spool.add(remade)

    async def _settle_later(self, entry: Entry, settlement: Settlement) -> None:
        for pause_s in SETTLE_RETRIES_S:
            await asyncio.sleep(pause_s)
            with suppress(RetryLater):
                await self._settle(entry, settlement)
                return
        log.error("settlement lost", attempt_id=entry.attempt_id, seq=entry.seq, **vars(settlement))

    def settled(
        self, progress: Progress, request: Asked, code: str, response_digest: str
    ) -> Settlement:
        """What the ledger will say. Usage that was not reported is null there; the budget is
        charged our estimate instead, unless nothing of an answer came."""
        tap = progress.tap
        costs = _may_have_cost(progress, code)
        costs = costs and not free(request, progress.asked_provider)
        estimated = usage.Tokens(request.prompt_estimate, tap.spent)
        charged = tap.reported or (estimated if costs else usage.Tokens(0, 0))
        unreported = ledger.NO_USAGE if tap.reported is None and charged.total else ""
        after = f"after {', '.join(progress.tries)}" if progress.tries else ""
        provider = progress.provider or progress.asked_provider.name
        model = progress.model or request.model or tap.model
        price = self.pricing.of(provider, model) or FREE
        return Settlement(
            status=progress.status,
            code=code,
            provider=provider,
            model=model,
            response_digest=response_digest,
            response_bytes=len(progress.body),
            prompt_tokens=tap.reported.prompt if tap.reported else None,
            completion_tokens=tap.reported.completion if tap.reported else None,
            cached_tokens=tap.reported.cached if tap.reported else 0,
            charged_tokens=charged.total,
            charged_nusd=price.cost(
                charged.prompt, charged.completion, charged.cached, charged.cache_written
            ),
            first_byte_ms=progress.first_byte_ms,
            duration_ms=progress.elapsed_ms(),
            note="; ".join(filter(None, (progress.asked_provider.note, code, unreported, after))),
        )


def limits_of(info: TokenInfo) -> tuple[SpendingLimit, ...]:
    """An older scheduler says the attempt's tokens only."""
    if info.budget_tokens is None or any(limit.scope == "attempt" for limit in info.limits):
        return info.limits
    return (*info.limits, SpendingLimit(scope="attempt", tokens=info.budget_tokens))


def free(request: Asked, provider: Provider) -> bool:
    return request.operation == "count" or isinstance(provider, LastWordProvider)


def reserve(request: Asked) -> tuple[int, int]:
    """Tokens of prompt and answer that it may cost, at first."""
    if request.operation == "embed":
        return request.prompt_estimate, 0
    if request.stream:
        reserve_max = ledger.COMPLETION_RESERVE_TOKENS
        return request.prompt_estimate, min(request.completion_max or reserve_max, reserve_max)
    return request.prompt_estimate, request.completion_max or ledger.WHOLE_RESERVE_TOKENS


def _may_have_cost(progress: Progress, code: str) -> bool:
    if code:  # broken off: the prompt was read unless the provider refused it outright
        return progress.started or code in _COSTLY
    return 200 <= progress.status < 300
