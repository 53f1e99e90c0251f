"""Proofs and artifacts are handed through; artifacts only as downloads, checked on the way."""

from typing import Any
from urllib.parse import quote

import httpx
import pytest
from wfhub_common import ids
from wfhub_common.messages import Exchanges


async def test_a_proof_and_the_public_key_are_handed_through(hub: Any) -> None:
    proof_id = ids.new_proof_id()
    hub.proof_store.exports[proof_id] = {"proof_id": proof_id}
    assert (await hub.http.get(f"/v1/proofs/{proof_id}")).json() == {"proof_id": proof_id}
    key = await hub.http.get("/v1/proofs/public-key")
    assert key.text == hub.proof_store.public_key
    missing = await hub.http.get(f"/v1/proofs/{ids.new_proof_id()}")
    assert missing.status_code == 404
    assert (await hub.http.get("/v1/proofs/..%2f..%2fetc")).status_code in (404, 422)


@pytest.mark.parametrize("name", ["page.html", "../../x", 'a"b c.txt', "деталь.txt", "dir/f"])
async def test_an_artifact_is_a_download_whatever_it_is_called(hub: Any, name: str) -> None:
    task_id = await hub.scheduler.task(state="succeeded")
    attempt_id = await hub.scheduler.attempt(task_id, state="won")
    receipt = hub.proof_store.receipt(attempt_id, name, b"<script>alert(1)</script>")
    await hub.scheduler.update("api_attempt", attempt_id, artifacts=[receipt])
    path = f"/v1/artifacts/{task_id}/{attempt_id}/{quote(name, safe='')}"
    answer = await hub.http.get(path)
    assert answer.status_code == 200
    assert answer.content == b"<script>alert(1)</script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_an_attempts_exchanges_with_models_are_artifacts_with_names(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="succeeded")
    attempt_id = await hub.scheduler.attempt(task_id, state="won")
    log = hub.proof_store.receipt(attempt_id, "agent.log", b"said")
    forged = hub.proof_store.receipt(attempt_id, "exchanges/0001.request", b"not what was asked")
    await hub.scheduler.update("api_attempt", attempt_id, artifacts=[log, forged])
    asked, record = (hub.proof_store.put(text) for text in (b"{asked}", b"{record}"))
    cut_off = {
        "seq": 1, "provider": "p", "model": "m", "replayed": False, "status": 504,
        "request_digest": asked, "response_digest": "", "record_digest": record,
        "prompt_tokens": 0, "completion_tokens": 0, "started_at": "", "duration_ms": 1,
    }  # fmt: skip
    hub.scheduler.exchanges[attempt_id] = Exchanges.model_validate(
        {"attempt_id": attempt_id, "exchanges": [cut_off]}
    )
    listed = (await hub.http.get(f"/v1/artifacts/{task_id}/{attempt_id}")).json()["artifacts"]
    names = [each["name"].removeprefix("exchanges/") for each in listed]
    assert names == ["agent.log", "0001.request", "0001.request", "0001.record"]
    assert [each["digest"] for each in listed[2:]] == [asked, record]
    path = f"/v1/artifacts/{task_id}/{attempt_id}"
    assert (await hub.http.get(f"{path}/exchanges/0001.request")).content == b"{asked}"
    assert (await hub.http.get(f"{path}/exchanges/0001.response")).status_code == 404
    other = f"/v1/artifacts/{await hub.scheduler.task()}/{attempt_id}"
    assert (await hub.http.get(other)).status_code == 404
    assert (await hub.http.get(f"{other}/exchanges/0001.request")).status_code == 404


@pytest.mark.hostile(16)
async def test_an_artifact_of_another_task_is_not_found(hub: Any) -> None:
    task_id, other = await hub.scheduler.task(), await hub.scheduler.task()
    attempt_id = await hub.scheduler.attempt(task_id)
    receipt = hub.proof_store.receipt(attempt_id, "a.txt", b"a")
    await hub.scheduler.update("api_attempt", attempt_id, artifacts=[receipt])
    answer = await hub.http.get(f"/v1/artifacts/{other}/{attempt_id}/a.txt")
    assert answer.status_code == 404


@pytest.mark.hostile(21)
async def test_an_artifact_that_changed_in_the_store_is_cut_off(hub: Any) -> None:
    task_id = await hub.scheduler.task()
    attempt_id = await hub.scheduler.attempt(task_id)
    receipt = hub.proof_store.receipt(attempt_id, "a.txt", b"a" * 200_000)
    hub.proof_store.blobs[receipt["digest"].removeprefix("sha256:")] = b"b" * 200_000
    await hub.scheduler.update("api_attempt", attempt_id, artifacts=[receipt])
    with pytest.raises(httpx.RemoteProtocolError):
        await hub.http.get(f"/v1/artifacts/{task_id}/{attempt_id}/a.txt")


async def test_a_store_that_is_down_is_a_503(hub: Any) -> None:
    hub.proof_store.close()
    answer = await hub.http.get("/v1/proofs/public-key")
    assert (answer.status_code, answer.json()["code"]) == (503, "proof-store-down")


async def test_a_blob_that_the_store_breaks_off_is_told_as_such(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="succeeded")
    attempt_id = await hub.scheduler.attempt(task_id, state="won")
    receipt = hub.proof_store.receipt(attempt_id, "log", b"rotten")
    await hub.scheduler.update("api_attempt", attempt_id, artifacts=[receipt])
    hub.proof_store.held_back = 1
    answer = await hub.http.get(f"/v1/artifacts/{task_id}/{attempt_id}/log")
    assert (answer.status_code, answer.json()["code"]) == (503, "blob-cut")
