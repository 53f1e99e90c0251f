"""Announcements become receipts, refusals or dead letters, whatever is killed meanwhile."""

import base64
import json
import signal

import asyncpg
from wfhub_common import digests, streams, subjects
from wfhub_common.messages import ArtifactStored

from .conftest import OTHER_RUNNER, Attempt, Hub, eventually


async def _queued(hub: Hub) -> int:
    js = hub.clients[subjects.SCHEDULER].jetstream()
    return int((await js.stream_info(subjects.INGEST_STREAM)).state.messages)


async def _rows(hub: Hub, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(hub.database_url)
    try:
        return list(await connection.fetch(query))
    finally:
        await connection.close()


async def test_an_announcement_waits_for_its_blob(running: Hub) -> None:
    attempt = Attempt()
    await running.announce(attempt, "late", b"late data")
    await running.upload(b"early data")
    await running.announce(attempt, "early", b"early data")
    early = await running.receipts(attempt, "early")
    assert [each.name for each in early.receipts] == ["early"]
    nothing = await running.receipts(attempt, "late", wait_s=0)
    assert (nothing.receipts, nothing.refused) == ((), {})
    await running.upload(b"late data")
    both = await running.receipts(attempt, "early", "late")
    assert {each.name for each in both.receipts} == {"early", "late"}


async def test_a_blob_that_never_comes_or_differs_is_refused(hub: Hub) -> None:
    hub.store.env["BLOB_WAIT_S"] = "0.5"
    await hub.store.start()
    attempt = Attempt()
    await hub.announce(attempt, "never", b"never uploaded")
    await hub.upload(b"12345")
    wrong_size = ArtifactStored(
        attempt_id=attempt.attempt_id, name="size", digest=digests.of_bytes(b"12345"), size=4
    )
    await hub.publish(attempt, wrong_size.model_dump_json().encode())
    found = await hub.receipts(attempt, "never", "size")
    assert found.receipts == ()
    assert "was not uploaded" in found.refused["never"]
    assert "the blob has 5" in found.refused["size"]

    async def empty() -> bool:
        return await _queued(hub) == 0

    await eventually(empty)


async def test_killed_between_upload_and_receipt_nothing_is_lost(running: Hub) -> None:
    attempt = Attempt()
    await running.upload(b"bundle")
    assert await running.store.end(signal.SIGKILL) == -signal.SIGKILL
    await running.announce(attempt, "result.bundle", b"bundle")
    await running.store.start()

    # The broker may not know yet that the process is gone: what it was sent comes again later.
    async def received() -> bool:
        return bool((await running.receipts(attempt, "result.bundle")).receipts)

    await eventually(received)
    found = await running.receipts(attempt, "result.bundle")
    sealed = await running.seal(attempt.asked(found.receipts))
    assert sealed.leaf_index == 0


async def test_the_same_announcement_again_gets_the_same_receipt(running: Hub) -> None:
    attempt = Attempt()
    first = await running.received(attempt, result_bundle=b"bundle")
    await running.announce(attempt, "result.bundle", b"bundle")

    async def empty() -> bool:
        return await _queued(running) == 0

    await eventually(empty)
    again = await running.receipts(attempt, "result.bundle")
    assert again.receipts == first


async def test_another_runners_announcement_is_not_this_runners(running: Hub) -> None:
    ours = Attempt()
    theirs = Attempt(runner=OTHER_RUNNER, attempt_id=ours.attempt_id)
    await running.upload(b"data")
    await running.announce(theirs, "result.bundle", b"data")
    found = await running.receipts(theirs, "result.bundle")
    assert [each.sender for each in found.receipts] == [OTHER_RUNNER]
    assert (await running.receipts(ours, "result.bundle", wait_s=0)).receipts == ()


async def test_what_cannot_be_used_goes_to_the_dead_letters(running: Hub) -> None:
    attempt = Attempt()
    good = ArtifactStored(
        attempt_id=attempt.attempt_id, name="a", digest=digests.of_bytes(b"a"), size=1
    )
    bad = {
        "message-malformed": b"\x00not json",
        "attempt-mismatch": good.model_copy(update={"attempt_id": Attempt().attempt_id}),
        "artifact-name": good.model_copy(update={"name": "../../x\x00"}),
        "digest-malformed": good.model_copy(update={"name": "d", "digest": "md5:1"}),
    }
    for body in bad.values():
        raw = body if isinstance(body, bytes) else body.model_dump_json().encode()
        await running.publish(attempt, raw)
    extra = json.dumps({**good.model_dump(), "surprise": 1}).encode()
    await running.publish(attempt, extra)

    async def all_dead() -> bool:
        js = running.clients[subjects.SCHEDULER].jetstream()
        dead = (await js.stream_info(subjects.DLQ_STREAM)).state.messages
        return dead == 5 and await _queued(running) == 0

    await eventually(all_dead)
    rows = await _rows(running, "SELECT * FROM proofs.api_dead_letter")
    assert sorted(row["code"] for row in rows) == sorted([*bad, "message-malformed"])
    assert {row["subject"] for row in rows} == {attempt.subject()}
    (binary,) = [row for row in rows if row["body_is_base64"]]
    assert base64.b64decode(binary["body"]) == b"\x00not json"
    assert {(row["source"], row["sender"], row["state"]) for row in rows} == {
        ("ingest", attempt.runner, "open")
    }
    refused = await running.receipts(attempt, "d")
    assert "is not a digest" in refused.refused["d"]


async def test_a_recreated_stream_ends_the_process_and_the_next_one_hears(running: Hub) -> None:
    js = running.clients[subjects.SCHEDULER].jetstream()
    await js.delete_stream(subjects.INGEST_STREAM)
    await streams.provision(js)
    assert await running.store.ended() != 0
    assert "start it again" in running.store.log()
    await running.store.start()
    await running.received(Attempt(), result_bundle=b"bundle")


async def test_it_waits_for_the_scheduler_to_make_the_stream(hub: Hub) -> None:
    js = hub.clients[subjects.SCHEDULER].jetstream()
    await js.delete_stream(subjects.INGEST_STREAM)
    await hub.store.start(ready=False)

    async def waiting() -> bool:
        return "waiting for the scheduler" in hub.store.log()

    await eventually(waiting)
    async with hub.http() as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "not-ready")
    await streams.provision(js)
    await eventually(hub.store.ready)
    await hub.received(Attempt(), result_bundle=b"bundle")
