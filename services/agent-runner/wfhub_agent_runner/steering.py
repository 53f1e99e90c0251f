"""Steering: words for an attempt that runs here, and what becomes of them.

An Inbox belongs to one attempt, is open while its agent runs, and holds what it was told; the relay
shows it to the agent at INBOX_PATH. Whoever does not listen can only be told to hand in. One that
lives off a model hears it from there: the answer to its next request is a last word, as if its
model had finished (the relay asks the gateway for it, by a header). When it still goes on after
some, after HAND_IN_GRACE_S, or at once where it asks no model, its sandbox is ended; what it left
is verified like any result.
Units: seconds. Raises: Rejected (409 `attempt-not-here`, `agent-does-not-listen`, `inbox-full`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from faststream.nats import NatsBroker
from wfhub_common import broker as rpc
from wfhub_common import subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import SteerAttempt, Steered

from wfhub_agent_runner.agents.entry import AgentEntry, Wire

INBOX_PATH = "/wfhub/inbox"
MESSAGES_MAX = 100  # an attempt
HAND_IN_GRACE_S = 60.0  # for an agent that hears of it to end by itself
LAST_WORDS_MAX = 3  # one that goes on asking after so many is ended


@dataclass
class Inbox:
    """`open_for` is the agent's name while it runs; `listens`: it reads messages."""

    messages: list[str] = field(default_factory=list)
    hand_in: asyncio.Event = field(default_factory=asyncio.Event)
    open_for: str = ""
    listens: bool = False
    last_call: str | None = (
        None  # JSON for HAND_IN_HEADER; None: nobody answers in its model's place
    )
    last_words: int = 0
    deaf: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, text: str, *, hand_in: bool) -> None:
        if not self.open_for:
            message = "its agent is not at work: it has not begun, or has ended already"
            raise Rejected("attempt-not-here", message, status=409)
        if text and not self.listens:
            message = (
                f"{self.open_for} reads no messages while it works; it can be told to hand in"
                " what it has, or be cancelled"
            )
            raise Rejected("agent-does-not-listen", message, status=409)
        if text and len(self.messages) >= MESSAGES_MAX:
            message = f"the attempt was told {MESSAGES_MAX} messages, the most it takes"
            raise Rejected("inbox-full", message, status=409)
        if text:
            self.messages.append(text)
        if hand_in:
            self.hand_in.set()

    def shown(self) -> bytes:
        numbered = [{"number": n, "text": text} for n, text in enumerate(self.messages, 1)]
        return json.dumps({"messages": numbered, "hand_in": self.hand_in.is_set()}).encode()

    def last_word(self) -> str | None:
        """What the next request to the model is to be answered with, as HAND_IN_HEADER has it."""
        if not self.hand_in.is_set() or self.last_call is None:
            return None
        self.last_words += 1
        if self.last_words > LAST_WORDS_MAX:
            self.deaf.set()
        return self.last_call

    @asynccontextmanager
    async def open(self, entry: AgentEntry, cancel: asyncio.Event) -> AsyncIterator[asyncio.Event]:
        """While its agent runs. The event ends the agent, whoever asked for it."""
        self.open_for, self.listens = entry.name, entry.steers
        if entry.wire is not Wire.ANY and not entry.steers:
            tool, arguments = entry.last_call
            self.last_call = json.dumps({"tool": tool, "arguments": dict(arguments)})
        stop = asyncio.Event()
        stopping = asyncio.create_task(self._stopping(cancel, stop))
        try:
            yield stop
        finally:
            stopping.cancel()
            self.open_for = ""

    async def _stopping(self, cancel: asyncio.Event, stop: asyncio.Event) -> None:
        """Sets `stop` when the agent is to be ended: at a cancel at once, at a hand-in after the
        time that one who hears of it has to end by itself."""
        await _any_of(cancel, self.hand_in)
        hears = self.listens or self.last_call is not None
        if hears and not cancel.is_set():
            await _any_of(cancel, self.deaf, timeout_s=HAND_IN_GRACE_S)
        stop.set()


async def _any_of(*events: asyncio.Event, timeout_s: float | None = None) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def serve(broker: NatsBroker, runner_id: str, inbox_of: Callable[[str], Inbox | None]) -> None:
    """Answers the scheduler. `inbox_of` an attempt id: None for one that is not here."""

    async def steer(_sender: str, asked: SteerAttempt) -> Steered:
        inbox = inbox_of(asked.attempt_id)
        if inbox is None:
            message = "the attempt is not (or no longer) at work here"
            raise Rejected("attempt-not-here", message, status=409)
        inbox.take(asked.text, hand_in=asked.hand_in)
        return Steered(attempt_id=asked.attempt_id)

    rpc.serve_at(
        broker, subjects.steering(runner_id), SteerAttempt, steer, queue=f"runner-{runner_id}"
    )
