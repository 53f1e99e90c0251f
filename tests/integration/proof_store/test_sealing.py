"""From an upload to a verified proof, and what stays the same when things are asked again."""

import asyncio

import pytest
from wfhub_common import broker as rpc
from wfhub_common import proofs, receipts, signing, subjects
from wfhub_common.errors import Corrupt, Rejected, RetryLater
from wfhub_common.messages import Exchange, SealedMany, SealMany

from .conftest import COMMIT, RUNNER, Attempt, Hub


def _exchange(seq: int, *, replayed: bool = False, note: str = "") -> Exchange:
    return Exchange(
        seq=seq,
        provider="replay" if replayed else "openai",
        model="m",
        replayed=replayed,
        status=200,
        request_digest="sha256:" + "1" * 64,
        response_digest="sha256:" + "2" * 64,
        prompt_tokens=10,
        completion_tokens=5,
        started_at="2025-01-02T03:04:05.000Z",
        duration_ms=7,
        note=note,
    )


async def test_upload_announce_seal_export_verify(running: Hub) -> None:
    hub, attempt = running, Attempt()
    hub.exchanges[attempt.attempt_id] = (
        _exchange(1),
        _exchange(2, replayed=True, note="written by hand"),
    )
    given = await hub.received(attempt, result_bundle=b"bundle", agent_log=b"log")
    for receipt in given:
        receipts.verify(receipt, hub.public_key())
        assert (receipt.sender, receipt.attempt_id) == (RUNNER, attempt.attempt_id)

    sealed = await hub.seal(attempt.asked(given))
    assert (sealed.leaf_index, sealed.tokens) == (0, 30)
    assert await hub.seal(attempt.asked(given)) == sealed
    async with hub.http("api") as client:
        export = (await client.get(f"/proofs/{sealed.proof_id}")).json()
        assert (await client.get("/checkpoint")).text == export["log"]["checkpoint"]
        pem = (await client.get("/public-key")).text
        assert (await client.get("/proofs/prf_" + "a" * 24)).status_code == 404
    assert pem == signing.public_pem(hub.public_key())

    found = proofs.verify_export(export, trusted_keys=[hub.public_key()])
    assert (found.proof_id, found.task_id) == (sealed.proof_id, attempt.task_id)
    assert found.commit == COMMIT
    assert (found.exchanges_count, found.replayed_count) == (2, 1)
    assert "1 of 2 model exchanges were replayed" in found.labels[0]
    assert "gateway: written by hand" in found.labels


async def test_many_proofs_in_one_message_are_each_answered_for_itself(running: Hub) -> None:
    good, other, bad = Attempt(), Attempt(), Attempt()
    asked = [each.asked(await running.received(each, result_bundle=b"x")) for each in (good, other)]
    known = await running.seal(asked[1])
    request = SealMany(proofs=(asked[0], bad.asked(()), asked[1], asked[0]))
    answer = await rpc.ask(
        running.scheduler, subjects.SCHEDULER, "seal_many", request, SealedMany, timeout_s=15.0
    )
    first, refused, again, twice = answer.results
    assert first.sealed is not None
    assert first.sealed.leaf_index == 1
    assert twice.sealed == first.sealed
    assert again.sealed == known
    assert refused.error is not None
    assert refused.error["code"] == "seal-malformed"
    async with running.http("api") as client:
        for sealed in (known, first.sealed):
            export = (await client.get(f"/proofs/{sealed.proof_id}")).json()
            assert proofs.verify_export(export, trusted_keys=[running.public_key()])


async def test_proofs_sealed_at_once_are_dense_and_all_in_the_newest_tree(running: Hub) -> None:
    attempts = [Attempt() for _ in range(12)]
    given = [await running.received(each, result_bundle=b"same bundle") for each in attempts]
    asked = [each.asked(own) for each, own in zip(attempts, given, strict=True)]
    sealed = await asyncio.gather(*(running.seal(each) for each in [*asked, *asked]))
    assert sorted({each.leaf_index for each in sealed}) == list(range(12))
    assert sealed[:12] == sealed[12:]
    async with running.http("scheduler") as client:
        for each in sealed[:12]:
            export = (await client.get(f"/proofs/{each.proof_id}")).json()
            found = proofs.verify_export(export, trusted_keys=[running.public_key()])
            assert (found.leaf_index, found.tree_size) == (each.leaf_index, 12)


async def test_without_the_gateway_sealing_is_to_be_asked_again(running: Hub) -> None:
    attempt = Attempt()
    given = await running.received(attempt, result_bundle=b"bundle")
    await running.gateway.stop()
    with pytest.raises(RetryLater, match="exchanges"):
        await running.seal(attempt.asked(given))
    async with running.http("api") as client:
        assert "\n0\n" in (await client.get("/checkpoint")).text


async def test_what_does_not_hold_is_not_sealed(running: Hub) -> None:
    attempt, other = Attempt(), Attempt()
    bundle, log = sorted(
        await running.received(attempt, result_bundle=b"bundle", agent_log=b"log"),
        key=lambda each: each.name,
        reverse=True,
    )
    forged = log.model_copy(update={"size": 999})
    with pytest.raises(Corrupt, match="does not match its fields"):
        await running.seal(attempt.asked((bundle, forged)))
    for wrong in ((log,), (bundle, bundle)):
        with pytest.raises(Rejected):
            await running.seal(attempt.asked(wrong))
    with pytest.raises(Rejected, match="another attempt"):
        await running.seal(other.asked((bundle, log)))
    for blob in running.store.root.glob("sha256/*/*/*"):
        blob.unlink()
    with pytest.raises(Corrupt, match="restore it"):
        await running.seal(attempt.asked((bundle, log)))
