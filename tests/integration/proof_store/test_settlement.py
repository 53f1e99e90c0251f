"""What one announcement comes to, on a real database and disk."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, digests, ids, signing, subjects
from wfhub_common.messages import ArtifactStored
from wfhub_common.subjects import AttemptSubject
from wfhub_proof_store import artifacts
from wfhub_proof_store.admission import Admitted, Decision, Refused
from wfhub_proof_store.arrivals import Arrivals
from wfhub_proof_store.blobs import Blobs
from wfhub_proof_store.settlement import Settlement

MOST = 3


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = db.make_engine(database_url, application="test")
    yield made
    await made.dispose()


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "proofs", bytes_max=1024)


async def test_a_runner_that_goes_on_announcing_fills_no_table(
    engine: AsyncEngine, blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "ANNOUNCED_MAX", MOST)
    settlement = Settlement(
        engine=engine,
        blobs=blobs,
        key=signing.load_or_create_private_key(tmp_path / "proof.key"),
        arrivals=Arrivals(),
        blob_wait_s=0.0,
    )
    own = AttemptSubject("rnr_own", "prj_x", "tsk_x", ids.new_attempt_ids(1)[0], "artifact")

    async def announce(at: AttemptSubject, data: bytes, name: str = "log") -> Decision:
        with blobs.upload(digests.of_bytes(data)) as upload:
            upload.write(data)
            upload.commit()
        stored = ArtifactStored(
            attempt_id=at.attempt_id, name=name, digest=digests.of_bytes(data), size=len(data)
        )
        body = stored.model_dump_json().encode()
        return await settlement.settle(subjects.ingest(at), body, age_s=0.0, deliveries=1)

    for n in range(MOST):
        assert await announce(own, b"%d" % n) == Admitted()
    for name in ("log", "other"):
        refused = await announce(own, b"one more", name)
        assert refused == Refused(f"{MOST} artifacts of this attempt have receipts")
    assert await announce(own, b"0") == Admitted()  # the same again
    assert await announce(replace(own, runner_id="rnr_other"), b"0") == Admitted()

    for n in range(MOST + 1):
        await settlement.refuse(own, f"never {n}", "not uploaded")
    wanted = artifacts.Wanted(
        own.attempt_id, "rnr_own", ("log", "other", *(f"never {n}" for n in range(MOST + 1)))
    )
    async with db.transaction(engine) as connection:
        (found,) = await artifacts.settled(connection, [wanted])
    assert [receipt.name for receipt in found.receipts] == ["log"]
    assert "never 0" in found.refused
    assert len(found.refused) == MOST - 1  # the name that has a receipt was refused, too
