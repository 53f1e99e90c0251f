"""`wfhub proof`: trust on first use, export, and verification that needs no service."""

import json
from pathlib import Path
from typing import Any

import pytest
from wfhub_common import checkpoints, dsse, ids, merkle, proofs, receipts, signing
from wfhub_common.messages import (
    BUNDLE_ARTIFACT,
    Exchanges,
    Receipt,
    RunnerObservations,
    SchedulerObservations,
)


@pytest.fixture(scope="module")
def key() -> signing.PrivateKey:
    return signing.generate_private_key()


def exported(key: signing.PrivateKey) -> dict[str, Any]:
    """A proof that is the only leaf of its log."""
    attempt_id, task_id, runner_id = ids.new_attempt_id(), ids.new_task_id(), ids.new_runner_id()
    bundle = receipts.sign(
        Receipt(
            attempt_id=attempt_id,
            name=BUNDLE_ARTIFACT,
            digest="sha256:" + "b" * 64,
            size=1,
            media_type="application/x-git-bundle",
            sender=runner_id,
            stored_at="2030-01-01T00:00:00.000Z",
        ),
        key,
    )
    observed = proofs.Observed(
        scheduler=SchedulerObservations(
            task_id=task_id,
            project_id=ids.new_project_id(),
            project="demo",
            attempt_id=attempt_id,
            attempt_number=1,
            runner_id=runner_id,
            prompt_digest="sha256:" + "e" * 64,
            spec={},
        ),
        runner=RunnerObservations(runner_id=runner_id, agent="builtin", commit="c" * 40),
        gateway=Exchanges(attempt_id=attempt_id),
        proof_store=proofs.StoreObservations(
            proof_id=ids.new_proof_id(),
            key_id=signing.key_id(key.public_key()),
            sealed_at="2030-01-01T00:00:01.000Z",
            receipts=(bundle,),
        ),
    )
    statement = proofs.Statement(
        subject=proofs.subjects_of(task_id, observed.runner.commit, bundle.digest),
        predicate=proofs.Predicate(observed=observed),
    )
    payload = json.dumps(statement.model_dump(mode="json", by_alias=True)).encode()
    envelope = dsse.seal(proofs.PAYLOAD_TYPE, payload, key).model_dump(mode="json")
    root = merkle.leaf_hash(proofs.leaf_data(envelope))
    checkpoint = checkpoints.Checkpoint("workflow-hub.dev/log/test", 1, root)
    return proofs.Export(
        proof_id=observed.proof_store.proof_id,
        envelope=envelope,
        log=proofs.LogEntry(
            leaf_index=0,
            tree_size=1,
            inclusion_proof=[],
            checkpoint=checkpoints.sign(checkpoint, key),
        ),
        public_key_pem=signing.public_pem(key.public_key()),
    ).model_dump(mode="json")


async def test_a_proof_is_exported_and_verified_offline_with_a_trusted_key(
    hub: Any, key: signing.PrivateKey, tmp_path: Path
) -> None:
    export = exported(key)
    proof_id = export["proof_id"]
    task_id = await hub.scheduler.task(state="succeeded", proof_id=proof_id)
    hub.proof_store.exports[proof_id] = export
    hub.proof_store.public_key = export["public_key_pem"]

    untrusted = await hub.cli("proof", "verify", proof_id)
    assert (untrusted.code, "wfhub proof trust" in untrusted.err) == (2, True)
    trusted = await hub.cli("proof", "trust")
    assert trusted.code == 0, trusted.err
    assert signing.key_id(key.public_key()) in trusted.out
    assert "first use" in trusted.err
    assert (await hub.cli("proof", "export", task_id, "-o", "p.json")).code == 0

    hub.proof_store.close()  # from here on, nobody is asked
    offline = {"WFHUB_URL": "http://127.0.0.1:9"}
    done = await hub.cli("proof", "verify", "p.json", "--json", **offline)
    assert done.code == 0, done.err
    assert json.loads(done.out)["verified"] is True
    assert json.loads(done.out)["proof_id"] == proof_id
    assert "VERIFIED" in (await hub.cli("proof", "verify", "p.json", **offline)).out

    other = tmp_path / "other.pem"
    other.write_text(signing.public_pem(signing.generate_private_key().public_key()))
    for how in ({"WFHUB_PROOF_KEY": str(other)}, {}):
        option = [] if how else ["--key", str(other)]
        refused = await hub.cli("proof", "verify", "p.json", *option, **offline, **how)
        assert (refused.code, "NOT VERIFIED" in refused.err) == (1, True)


async def test_a_changed_proof_is_refused(
    hub: Any, key: signing.PrivateKey, tmp_path: Path
) -> None:
    export = exported(key)
    payload = export["envelope"]["payload"]
    export["envelope"]["payload"] = ("A" if payload[0] != "A" else "B") + payload[1:]
    (tmp_path / "p.json").write_text(json.dumps(export))
    (tmp_path / "key.pem").write_text(signing.public_pem(key.public_key()))
    done = await hub.cli("proof", "verify", "p.json", "--key", "key.pem", "--json")
    assert done.code == 1
    assert json.loads(done.out)["verified"] is False


async def test_another_key_of_the_same_service_is_refused_until_replaced(hub: Any) -> None:
    for turn, (options, code) in enumerate((([], 0), ([], 2), (["--replace"], 0))):
        if turn < 2:
            fresh = signing.generate_private_key().public_key()
            hub.proof_store.public_key = signing.public_pem(fresh)
        assert (await hub.cli("proof", "trust", *options)).code == code


@pytest.mark.parametrize("content", ["", "[]", "{}", "\xff", "[" * 100_000])
async def test_what_is_no_proof_is_called_that(hub: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / "p.json").write_text(content, encoding="latin-1")
    key = signing.public_pem(signing.generate_private_key().public_key())
    (tmp_path / "key.pem").write_text(key)
    done = await hub.cli("proof", "verify", "p.json", "--key", "key.pem")
    assert done.code in (1, 2)
    assert "no exported proof" in done.err
    assert "Traceback" not in done.err
