"""The far side of the scheduler, in one process: runners that do no work, and where asked the
proof-store's answer to `seal` and the gateway's to `exchanges`.

A runner here does what the product's runner does on the wire: registers, keeps one claim open for
all its free slots (repeated under the same claim_id until it is answered), completes agent units
with a receipt signed over the attempt, completes the publish units that follow (those that end in
the same turn in one message), and beats for what it holds. It runs no agent, makes no commit and
pushes nothing.

Told by one JSON argument (`Told`); says `ready`, then `done` and a JSON line once `expect` tasks
are published. `trace` is a file of lines `<c|s> <monotonic ns> <task id>`: claimed, succeeded.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from wfhub_common import digests, ids, receipts, signing, subjects
from wfhub_common.broker import REQUESTS_PER_RUNNER_MAX
from wfhub_common.messages import (
    BUNDLE_ARTIFACT,
    ArtifactStored,
    AttemptState,
    Claim,
    Complete,
    Heartbeat,
    Receipt,
    ReceiptsOf,
    Register,
    RunnerObservations,
    Verdict,
    VerdictStatus,
)

from control_plane_parts import wire

CLAIM_SLOTS_MAX = 100  # of one claim (messages.Claim)
COMPLETIONS_MAX = 100  # of one message (messages.CompleteMany)
CLAIM_WAIT_S = 10.0
BEAT_S = 10.0
FLUSH_S = 0.02
BUNDLE = b"a bundle of nothing, stored once for all attempts of a run"
DIGEST = digests.of_bytes(BUNDLE)
AGAIN_S = 0.1


@dataclass
class Told:
    nats_url: str
    passwords: dict[str, str]
    key_file: str
    runner_ids: list[str]
    slots: int = 200
    expect: int = 0  # 0: until killed
    seal: bool = True
    exchanges: bool = False
    store_receipts: bool = False  # announce to the real proof-store and ask it for the receipt
    hold: bool = False  # claim agent units and sit on them
    trace: str = ""


@dataclass
class Tally:
    expect: int
    trace: TextIO | None
    claimed: int = 0
    succeeded: int = 0
    first_claim_ns: int = 0
    last_success_ns: int = 0
    lost: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def claim(self, task_id: str) -> None:
        now = time.monotonic_ns()
        self.claimed += 1
        self.first_claim_ns = self.first_claim_ns or now
        if self.trace is not None:
            self.trace.write(f"c {now} {task_id}\n")

    def success(self, task_id: str) -> None:
        self.last_success_ns = time.monotonic_ns()
        self.succeeded += 1
        if self.trace is not None:
            self.trace.write(f"s {self.last_success_ns} {task_id}\n")
        if self.succeeded == self.expect:
            self.done.set()


class Runner:
    def __init__(self, told: Told, runner_id: str, key: signing.PrivateKey, tally: Tally) -> None:
        self._told, self._id, self._key, self._tally = told, runner_id, key, tally
        self._incarnation = str(ids.new_claim_id())
        self._free = told.slots
        self._slot_free = asyncio.Event()
        self._held: set[str] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._ending: list[tuple[bytes, asyncio.Future[dict[str, Any]]]] = []
        self._asking_receipts = asyncio.Semaphore(REQUESTS_PER_RUNNER_MAX)
        self._nats: Client
        observed = RunnerObservations(
            runner_id=runner_id,
            agent="none",
            commit="c" * 40,
            tree="d" * 40,
            base_commit="b" * 40,
            base_tree="e" * 40,
            verdict=Verdict(status=VerdictStatus.NONE),
        )
        self._observed = observed.model_dump(mode="json")

    async def start(self) -> "Runner":
        password = self._told.passwords[self._id]
        self._nats = await wire.connect(self._told.nats_url, self._id, password)
        await self._register()
        return self

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claims())
            group.create_task(self._beats())

    async def _register(self) -> None:
        slots = min(self._told.slots, 1000)
        request = Register(incarnation=self._incarnation, name="null", slots=slots)
        await self._patiently("register", request.model_dump_json().encode())

    async def _patiently(self, command: str, body: bytes, timeout_s: float = 5.0) -> dict[str, Any]:
        """Asked until it is answered; a refusal that is no `retry-later` is raised."""
        while True:
            try:
                return await wire.ask(self._nats, self._id, command, body, timeout_s=timeout_s)
            except wire.Refused as e:
                if e.kind != "retry-later":
                    raise
            except (TimeoutError, nats.errors.Error, OSError):
                pass
            await asyncio.sleep(AGAIN_S * random.uniform(0.5, 1))

    async def _claims(self) -> None:
        while True:
            while self._free <= 0:
                self._slot_free.clear()
                await self._slot_free.wait()
            claim = Claim(
                claim_id=str(ids.new_claim_id()),
                incarnation=self._incarnation,
                slots=min(self._free, CLAIM_SLOTS_MAX),
                wait_s=CLAIM_WAIT_S,
            )
            body = claim.model_dump_json().encode()
            claimed = await self._patiently("claim", body, CLAIM_WAIT_S + 5)
            for assignment in claimed["assignments"]:
                self._start(assignment)

    def _start(self, assignment: dict[str, Any]) -> None:
        agent = assignment["kind"] == "agent"
        if agent:
            self._tally.claim(assignment["task_id"])
        self._free -= 1
        self._held.add(assignment["attempt_id"])
        if agent and self._told.hold:
            return
        work = asyncio.create_task(self._work(assignment, agent))
        self._working.add(work)
        work.add_done_callback(self._ended)

    def _ended(self, work: asyncio.Task[None]) -> None:
        self._working.discard(work)
        if error := work.exception():
            raise error

    async def _work(self, assignment: dict[str, Any], agent: bool) -> None:
        attempt_id = assignment["attempt_id"]
        try:
            if agent:
                body = await self._won(assignment)
            else:
                done = Complete(attempt_id=attempt_id, outcome=AttemptState.WON)
                body = done.model_dump_json().encode()
            answer = await self._completed(body)
            if answer["task_state"] == "succeeded":
                self._tally.success(assignment["task_id"])
        except wire.Refused as e:
            if e.kind != "lease-lost":
                raise
            self._tally.lost += 1
        finally:
            self._held.discard(attempt_id)
            self._free += 1
            self._slot_free.set()

    async def _completed(self, body: bytes) -> dict[str, Any]:
        """As `complete` answers; what ends in the same turn goes in one message."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._ending.append((body, answer))
        if len(self._ending) == 1:
            sending = asyncio.create_task(self._send_ended())
            self._working.add(sending)
            sending.add_done_callback(self._ended)
        return await answer

    async def _send_ended(self) -> None:
        await asyncio.sleep(0)
        while self._ending:
            batch = self._ending[:COMPLETIONS_MAX]
            del self._ending[:COMPLETIONS_MAX]
            one = len(batch) == 1
            task = asyncio.create_task(self._send_one(*batch[0]) if one else self._send_many(batch))
            self._working.add(task)
            task.add_done_callback(self._ended)

    async def _send_one(self, body: bytes, answer: asyncio.Future[dict[str, Any]]) -> None:
        try:
            answer.set_result(await self._patiently("complete", body))
        except wire.Refused as e:
            answer.set_exception(e)

    async def _send_many(self, batch: list[tuple[bytes, asyncio.Future[dict[str, Any]]]]) -> None:
        body = b'{"completions":[' + b",".join(each for each, _ in batch) + b"]}"
        results = (await self._patiently("complete_many", body))["results"]
        for (one, answer), result in zip(batch, results, strict=True):
            error = result["error"]
            if error is None:
                answer.set_result(result["completed"])
            elif error["kind"] == "retry-later":
                await self._send_one(one, answer)
            else:
                answer.set_exception(wire.Refused(error))

    async def _won(self, assignment: dict[str, Any]) -> bytes:
        attempt_id = assignment["attempt_id"]
        if self._told.store_receipts:
            found = [await self._stored(assignment)]
        else:
            found = [self._receipt(attempt_id).model_dump(mode="json")]
        won = {
            "attempt_id": attempt_id,
            "outcome": "won",
            "receipts": found,
            "observed": self._observed,
        }
        return json.dumps(won).encode()

    def _receipt(self, attempt_id: str) -> Receipt:
        unsigned = Receipt(
            attempt_id=attempt_id,
            name=BUNDLE_ARTIFACT,
            digest=DIGEST,
            size=len(BUNDLE),
            media_type="application/octet-stream",
            sender=self._id,
            stored_at="2026-01-01T00:00:00Z",
        )
        return receipts.sign(unsigned, self._key)

    async def _stored(self, assignment: dict[str, Any]) -> dict[str, Any]:
        """The bytes are in the store already (content-addressed); each attempt announces them."""
        attempt_id = assignment["attempt_id"]
        at = subjects.AttemptSubject(
            self._id, assignment["project_id"], assignment["task_id"], attempt_id, "artifact"
        )
        announced = ArtifactStored(
            attempt_id=attempt_id, name=BUNDLE_ARTIFACT, digest=DIGEST, size=len(BUNDLE)
        )
        headers = {"Nats-Expected-Stream": subjects.INGEST_STREAM}
        await self._nats.request(
            subjects.ingest(at), announced.model_dump_json().encode(), headers=headers, timeout=30
        )
        asked = ReceiptsOf(attempt_id=attempt_id, names=(BUNDLE_ARTIFACT,), wait_s=20.0)
        body = asked.model_dump_json().encode()
        async with self._asking_receipts:
            (receipt,) = (await self._patiently("receipts", body, 30.0))["receipts"]
        return dict(receipt)

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            held = sorted(self._held)
            for first in range(0, len(held), 1000):
                beat = Heartbeat(
                    incarnation=self._incarnation, attempts=tuple(held[first : first + 1000])
                )
                try:
                    body = beat.model_dump_json().encode()
                    await wire.ask(self._nats, self._id, "heartbeat", body, timeout_s=5)
                except (wire.Refused, TimeoutError, nats.errors.Error, OSError):
                    pass  # the next one follows


async def seals(told: Told) -> None:
    """In the proof-store's place: an answer at once, the same for the same attempt."""
    connection = await wire.connect(
        told.nats_url, subjects.PROOF_STORE, told.passwords[subjects.PROOF_STORE]
    )

    def sealed(asked: dict[str, Any]) -> dict[str, Any]:
        attempt_id = asked["scheduler"]["attempt_id"]
        return {
            "proof_id": "prf_" + attempt_id.removeprefix("att_"),
            "envelope_digest": DIGEST,
            "leaf_index": 0,
            "tokens": 0,
        }

    async def answer(message: Msg) -> None:
        await message.respond(json.dumps({"ok": sealed(json.loads(message.data))}).encode())

    async def answer_many(message: Msg) -> None:
        proofs = json.loads(message.data)["proofs"]
        results = [{"sealed": sealed(each), "error": None} for each in proofs]
        await message.respond(json.dumps({"ok": {"results": results}}).encode())

    for command, answered in (("seal", answer), ("seal_many", answer_many)):
        subject = subjects.rpc_filter(command)
        await connection.subscribe(subject, queue=subjects.PROOF_STORE, cb=answered)


async def exchanges(told: Told) -> None:
    """In the gateway's place: this attempt asked no model anything."""
    connection = await wire.connect(
        told.nats_url, subjects.GATEWAY, told.passwords[subjects.GATEWAY]
    )

    async def answer(message: Msg) -> None:
        attempt_id = json.loads(message.data)["attempt_id"]
        await message.respond(json.dumps({"ok": {"attempt_id": attempt_id}}).encode())

    await connection.subscribe(subjects.rpc_filter("exchanges"), queue=subjects.GATEWAY, cb=answer)


async def flush(trace: TextIO) -> None:
    while True:
        await asyncio.sleep(FLUSH_S)
        trace.flush()


async def main(told: Told) -> None:
    key = signing.load_or_create_private_key(told.key_file)
    trace = open(told.trace, "a") if told.trace else None  # noqa: ASYNC230, SIM115 - this process's
    tally = Tally(told.expect, trace)
    if told.seal:
        await seals(told)
    if told.exchanges:
        await exchanges(told)
    runners = [await Runner(told, each, key, tally).start() for each in told.runner_ids]
    tasks = [runner.run() for runner in runners]
    if trace is not None:
        tasks.append(flush(trace))
    running = asyncio.gather(*tasks)
    print("ready", flush=True)
    done = asyncio.create_task(tally.done.wait())
    await asyncio.wait({running, done}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    if trace is not None:
        trace.flush()
    result = {
        "claimed": tally.claimed,
        "succeeded": tally.succeeded,
        "lost": tally.lost,
        "first_claim_ns": tally.first_claim_ns,
        "last_success_ns": tally.last_success_ns,
    }
    print("done " + json.dumps(result), flush=True)
    await asyncio.sleep(3600)  # ended by the bench, which has more to ask of the servers


if __name__ == "__main__":
    asyncio.run(main(Told(**json.loads(sys.argv[1]))))
