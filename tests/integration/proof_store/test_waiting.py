"""Whoever waits for what does not come holds up nobody else."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import nats
import pytest
from wfhub_common import broker as rpc
from wfhub_common import db, digests, identities, ids, signing, subjects
from wfhub_common.messages import ArtifactStored, ReceiptsOf
from wfhub_common.settings import BrokerSettings
from wfhub_proof_store import ingest, waiting
from wfhub_proof_store.arrivals import Arrivals
from wfhub_proof_store.blobs import Blobs
from wfhub_proof_store.collect import Collector
from wfhub_proof_store.ingest import Ingest
from wfhub_proof_store.letters import Letters
from wfhub_proof_store.settlement import Settlement

from .conftest import OTHER_RUNNER, RUNNER, WAIT_S, Attempt, Hub, eventually

PENDING, PLACES = 60, 20
CROWD = [ids.new_runner_id() for _ in range(5)]


@pytest.fixture
def passwords() -> dict[str, str]:
    users = [*identities.SERVICES, RUNNER, OTHER_RUNNER, *CROWD]
    return {user: secrets.token_hex(8) for user in users}


@pytest.fixture
async def ingesting(
    hub: Hub, passwords: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Hub]:
    """The store's ingest and its answer to `receipts` in this process, with few places to wait."""
    monkeypatch.setattr(ingest, "ACK_PENDING_MAX", PENDING)
    monkeypatch.setattr(waiting, "WAITING_OF_A_RUNNER_MAX", PLACES)
    user, url = subjects.PROOF_STORE, hub.store.env["NATS_URL"]
    broker = rpc.make_broker(
        BrokerSettings(nats_url=url, nats_user=user, nats_password=passwords[user]), name=user
    )
    engine = db.make_engine(hub.database_url, application="test")
    arrivals = Arrivals()
    settlement = Settlement(
        engine=engine,
        blobs=Blobs(tmp_path / "blobs", bytes_max=1024),
        key=signing.load_or_create_private_key(tmp_path / "proof.key"),
        arrivals=arrivals,
        blob_wait_s=600.0,
    )
    letters = Letters(engine, settlement)
    Ingest(broker=broker, settlement=settlement, letters=letters).subscribe(inbox_user=user)
    collector = Collector(engine, arrivals)
    rpc.serve(broker, "receipts", ReceiptsOf, collector.receipts, queue=user)
    await broker.start()
    yield hub
    await broker.stop()
    await engine.dispose()


async def test_a_runner_whose_blobs_are_missing_holds_up_no_other(
    ingesting: Hub, tmp_path: Path
) -> None:
    hub, absent, own = ingesting, Attempt(), Attempt(OTHER_RUNNER)
    for n in range(3 * PENDING):
        await hub.announce(absent, f"f{n}", b"never uploaded %d" % n)
    digest = digests.of_bytes(b"mine")
    with Blobs(tmp_path / "blobs", bytes_max=1024).upload(digest) as upload:
        upload.write(b"mine")
        upload.commit()
    stored = ArtifactStored(attempt_id=own.attempt_id, name="mine", digest=digest, size=4)
    await hub.publish(own, stored.model_dump_json().encode())
    found = await hub.receipts(own, "mine", wait_s=20.0)
    assert [each.name for each in found.receipts] == ["mine"]

    async def left() -> bool:
        js = hub.clients[subjects.SCHEDULER].jetstream()
        return int((await js.stream_info(subjects.INGEST_STREAM)).state.messages) == PLACES

    await eventually(left)


async def test_runners_that_wait_for_receipts_hold_up_no_other(
    running: Hub, passwords: dict[str, str]
) -> None:
    """More questions than are answered at once of other commands."""
    asked = ReceiptsOf(attempt_id=Attempt().attempt_id, names=("never",), wait_s=25.0)
    body = asked.model_dump_json().encode()
    url = running.store.env["NATS_URL"]
    async with AsyncExitStack() as stack:
        for runner in CROWD:
            user = {"user": runner, "password": passwords[runner]}
            client = await nats.connect(url, inbox_prefix=f"_INBOX.{runner}", **user)
            stack.push_async_callback(client.close)
            for _ in range(rpc.REQUESTS_PER_RUNNER_MAX):
                await client.publish(subjects.rpc(runner, "receipts"), body, client.new_inbox())
            await client.flush()
        own = Attempt(OTHER_RUNNER)
        async with asyncio.timeout(WAIT_S):
            found = await running.receipts(own, "none", wait_s=0.0)
    assert found.receipts == ()
