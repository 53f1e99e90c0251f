"""The real thing: one Postgres database with the real schema, two scheduler cores (two replicas),
and, at the broker's port, a double that answers `seal` and `seal_many`, and swallows hints.

One event loop of its own; commands of one batch run at once. Between examples every row goes, and
ids begin anew, so that a failure shrinks. Nothing becomes due by itself: what waits is pushed a
day away after each step, and the machine makes it due by SQL.
"""

import asyncio
import base64
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
from faststream.nats import NatsBroker
from nats.errors import NoRespondersError
from wfhub_common import db, digests, ids, receipts, signing
from wfhub_common.errors import Rejected, WfhubError, to_wire
from wfhub_common.messages import BUNDLE_ARTIFACT, Receipt, Sealed, SealMany, SealProof
from wfhub_scheduler import creation, leasing, main, states, timing, transitions
from wfhub_scheduler.complete import ReceiptCheck
from wfhub_scheduler.core import Core
from wfhub_scheduler.states import Rule
from wfhub_scheduler.sweeper import Sweeper
from wfhub_scheduler.timing import Timing

from . import invariants
from .records import Answer

STEP_S_MAX = 30.0  # a batch that takes longer hangs
TTL_S = 86_400.0  # no lease runs out by itself
BACKOFF_S = 3600.0  # or what a wait may be at most: longer than a step on the busiest machine

Command = Callable[[Core], Awaitable[Any]]


class Wire:
    """The broker's double: connected, deaf, and the proof-store behind `request`."""

    is_connected = True

    def __init__(self) -> None:
        self.outcome = "sealed"  # sealed | away | a refusal's code
        self.gate: asyncio.Event | None = None  # holds answers back until it is set
        self.asked = asyncio.Event()  # a question came

    @property
    def connection(self) -> "Wire":
        return self

    async def publish(self, *_: Any, **__: Any) -> None:
        return None

    async def request(self, subject: str, body: bytes, **_: Any) -> Any:
        many = subject.endswith(".seal_many")
        assert many or subject.endswith(".seal"), subject
        questions = (
            SealMany.model_validate_json(body).proofs
            if many
            else (SealProof.model_validate_json(body),)
        )
        outcome = self.outcome
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if outcome == "away":
            raise NoRespondersError
        results = [_sealed(question, outcome) for question in questions]
        if many:
            answer: dict[str, Any] = {"ok": {"results": results}}
        else:
            ((kind, value),) = results[0].items()
            answer = {"error" if kind == "error" else "ok": value}
        return type("Reply", (), {"data": json.dumps(answer).encode()})()


def _sealed(question: SealProof, outcome: str) -> dict[str, Any]:
    if outcome != "sealed":
        return {"error": to_wire(Rejected(outcome, "not this one"))}
    attempt_id = question.scheduler.attempt_id
    sealed = Sealed(
        proof_id="prf_" + attempt_id.removeprefix("att_"),
        envelope_digest=digests.of_bytes(attempt_id.encode()),
        leaf_index=0,
        tokens=7,
    )
    return {"sealed": sealed.model_dump(mode="json")}


class Lab:
    """`broken`: what the last example found wrong, in words; None while all is well."""

    def __init__(self, url: str, key_folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.wire = Wire()
        self.key = signing.load_or_create_private_key(key_folder / "proof.key")
        self.check = ReceiptCheck(str(signing.public_key_path(key_folder / "proof.key")))
        self._url = url
        self.steps = self.examples = 0
        self.until = math.inf  # monotonic: no example begins later
        self.met: Counter[str] = Counter()  # what was done, how it was answered, how tasks ended
        self.taken: Counter[Rule] = Counter()  # rules of states.py that were decided on

    def decide(self, *given: Any) -> Rule | None:
        """As states.py does, and counted."""
        rule = states.decide(*given)
        if rule is not None:
            self.taken[rule] += 1
        return rule

    async def open(self) -> None:
        self.pg = await asyncpg.connect(self._url)
        engine = db.make_engine(self._url, application="model")
        self._engine = engine
        broker = cast(NatsBroker, self.wire)
        times = Timing(TTL_S, TTL_S / 3, retry_base_s=BACKOFF_S)
        self.cores = [Core(engine, broker, times) for _ in range(2)]
        self.sweepers = {id(core): _sweeper(core) for core in self.cores}
        tables = await self.pg.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'sched'")
        kept = {"migration", "relay"}
        names = sorted(row["tablename"] for row in tables if row["tablename"] not in kept)
        # Not TRUNCATE: on small tables it costs many times as much.
        self._empty = ";".join(f"DELETE FROM sched.{name}" for name in names)
        self._look = await self.pg.prepare(invariants.SNAPSHOT)
        self._faults = await self.pg.prepare(invariants.FAULTS)

    async def close(self) -> None:
        await self.pg.close()
        await self._engine.dispose()

    def wipe(self) -> None:
        Ids.restart()
        self.wire.outcome, self.wire.gate = "sealed", None
        for core in self.cores:
            core.groups.clear()

        async def work() -> None:
            # Without triggers: foreign keys are of no interest when everything goes.
            await self.pg.execute(
                f"BEGIN; SET LOCAL session_replication_role = replica; {self._empty}; COMMIT"
            )

        self.loop.run_until_complete(work())

    def at_once(self, commands: Sequence[tuple[Command, int]]) -> list[Answer]:
        """Each command on its core (0 or 1); all of them at the same time."""

        async def one(command: Command, core: int) -> Answer:
            try:
                return Answer(await command(self.cores[core]))
            except WfhubError as e:
                return Answer(error=e.code)

        async def all_of_them() -> list[Answer]:
            async with asyncio.timeout(STEP_S_MAX):
                return await asyncio.gather(*(one(*each) for each in commands))

        self.steps += len(commands)
        return self.loop.run_until_complete(all_of_them())

    def in_between(self, command: Command) -> Command:
        """The command, run when the proof-store was asked and has not answered."""
        gate = self.wire.gate = asyncio.Event()
        self.wire.asked.clear()

        async def run(core: Core) -> Any:
            await self.wire.asked.wait()
            try:
                return await command(core)
            finally:
                gate.set()

        return run

    def sql(self, statement: str, *values: Any) -> None:
        """The clock, or the machine's own hand; never what the product should do."""
        self.loop.run_until_complete(self.pg.execute(statement, *values))

    def look(self) -> tuple[dict[str, Any], list[str]]:
        """All that the model knows about, and what breaks an invariant."""

        async def work() -> tuple[dict[str, Any], list[str]]:
            await self.pg.execute(invariants.STAND_STILL)
            seen = json.loads(await self._look.fetchval())
            faults = [f"{row['name']}: {row['what']}" for row in await self._faults.fetch()]
            return seen, faults

        return self.loop.run_until_complete(work())

    async def sweep(self, core: Core) -> None:
        await self.sweepers[id(core)].turn()

    def receipt(self, attempt_id: str, sender: str) -> Receipt:
        unsigned = Receipt(
            attempt_id=attempt_id,
            name=BUNDLE_ARTIFACT,
            digest=digests.of_bytes(attempt_id.encode()),
            size=1,
            media_type="application/octet-stream",
            sender=sender,
            stored_at="2026-01-01T00:00:00Z",
        )
        return receipts.sign(unsigned, self.key)


def _sweeper(core: Core) -> Sweeper:
    """One that never suspects an outage: the machine says when a lease has run out."""
    sweeper = Sweeper(core)
    sweeper._calm.turn = lambda *_, **__: True  # type: ignore[method-assign]
    return sweeper


class Ids:
    """Ids in order of their making, so that an example repeats itself."""

    made = 0

    @classmethod
    def restart(cls) -> None:
        cls.made = 0

    @classmethod
    def new(cls, prefix: str) -> str:
        cls.made += 1
        body = base64.b32encode(cls.made.to_bytes(15, "big")).decode().lower()
        return f"{prefix}_{body}"


@contextmanager
def opened(postgres_server: str, folder: Path) -> Iterator[Lab]:
    name = "model"

    async def admin(statement: str) -> None:
        connection = await asyncpg.connect(postgres_server + "/postgres")
        await connection.execute(statement)
        await connection.close()

    asyncio.run(admin(f"CREATE DATABASE {name}"))
    url = f"{postgres_server}/{name}"
    main.migrate(url)
    loss_delay_s = timing.loss_delay_s
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ids, "_new", Ids.new)
        patched.setattr(ids, "_new_many", lambda prefix, n: [Ids.new(prefix) for _ in range(n)])
        patched.setattr(
            timing,
            "loss_delay_s",
            lambda *given: (BACKOFF_S if loss_delay_s(*given) else 0.0) + loss_delay_s(*given),
        )
        lab = Lab(url, folder)
        for module in (creation, leasing, transitions):
            patched.setattr(module, "decide", lab.decide)
        try:
            lab.loop.run_until_complete(lab.open())
            yield lab
            lab.loop.run_until_complete(lab.close())
        finally:
            lab.loop.close()
            asyncio.run(admin(f"DROP DATABASE {name} WITH (FORCE)"))
