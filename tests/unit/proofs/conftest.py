"""A whole proof, made as the proof-store makes one but in memory, and with parts to change."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from exchange_chains import chained
from wfhub_common import checkpoints, dsse, ids, merkle, proofs, receipts, signing
from wfhub_common.messages import (
    Exchange,
    Exchanges,
    Receipt,
    RunnerObservations,
    SchedulerObservations,
    Verdict,
    VerdictStatus,
)

ORIGIN = "workflow-hub.dev/log/test"
COMMIT = "c" * 40


@pytest.fixture(scope="session")
def key() -> signing.PrivateKey:
    return signing.generate_private_key()


@pytest.fixture
def receipt(key: signing.PrivateKey) -> Receipt:
    return receipts.sign(
        Receipt(
            attempt_id="att_" + "a" * 24,
            name="result.bundle",
            digest="sha256:" + "b" * 64,
            size=1234,
            media_type="application/x-git-bundle",
            sender="rnr_" + "r" * 24,
            stored_at="2025-01-02T03:04:05.678Z",
        ),
        key,
    )


@pytest.fixture
def observed(key: signing.PrivateKey, receipt: Receipt) -> proofs.Observed:
    log = receipt.model_copy(update={"name": "agent.log", "digest": "sha256:" + "d" * 64})
    return proofs.Observed(
        scheduler=SchedulerObservations(
            task_id="tsk_" + "t" * 24,
            project_id=ids.new_project_id(),
            project="demo",
            attempt_id=receipt.attempt_id,
            attempt_number=1,
            runner_id=receipt.sender,
            prompt_digest="sha256:" + "e" * 64,
            spec={"repo": "/r", "weight": 0.5},
        ),
        runner=RunnerObservations(
            runner_id=receipt.sender,
            agent="builtin",
            commit=COMMIT,
            verdict=Verdict(status=VerdictStatus.PASSED),
        ),
        gateway=chained(
            Exchanges(
                attempt_id=receipt.attempt_id,
                exchanges=(exchange(1, replayed=False), exchange(2, replayed=False)),
                prompt_tokens=20,
                completion_tokens=10,
            )
        ),
        proof_store=proofs.StoreObservations(
            proof_id="prf_" + "p" * 24,
            key_id=signing.key_id(key.public_key()),
            sealed_at="2025-01-02T03:04:06.000Z",
            receipts=(receipt, receipts.sign(log, key)),
        ),
    )


def exchange(seq: int, *, replayed: bool, note: str = "") -> Exchange:
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


@pytest.fixture
def make_export(key: signing.PrivateKey) -> Callable[..., dict[str, Any]]:
    def make(
        observed: proofs.Observed,
        *,
        subject: tuple[proofs.Subject, ...] | None = None,
        payload_type: str = proofs.PAYLOAD_TYPE,
        signed_with: signing.PrivateKey = key,
    ) -> dict[str, Any]:
        """The proof as leaf 4 of a log of 7."""
        bundle = observed.proof_store.receipts[0].digest
        about = proofs.subjects_of(observed.scheduler.task_id, observed.runner.commit, bundle)
        statement = proofs.Statement(
            subject=about if subject is None else subject,
            predicate=proofs.Predicate(observed=observed),
        )
        payload = json.dumps(statement.model_dump(mode="json", by_alias=True)).encode()
        envelope = dsse.seal(payload_type, payload, signed_with).model_dump(mode="json")
        leaves = [merkle.leaf_hash(b"%d" % n) for n in range(7)]
        leaves[4] = merkle.leaf_hash(proofs.leaf_data(envelope))
        nodes: dict[merkle.Node, bytes] = {}
        for size, leaf in enumerate(leaves):
            added = merkle.append(size, [nodes[peak] for peak in merkle.peaks(size)], leaf)
            nodes |= added.nodes
        checkpoint = checkpoints.Checkpoint(ORIGIN, 7, added.root)
        path = merkle.inclusion_proof(4, 7, nodes)
        return proofs.Export(
            proof_id=observed.proof_store.proof_id,
            envelope=envelope,
            log=proofs.LogEntry(
                leaf_index=4,
                tree_size=7,
                inclusion_proof=[signing.to_base64(each) for each in path],
                checkpoint=checkpoints.sign(checkpoint, signed_with),
            ),
            public_key_pem=signing.public_pem(key.public_key()),
        ).model_dump(mode="json")

    return make


@pytest.fixture
def export(make_export: Callable[..., dict[str, Any]], observed: proofs.Observed) -> dict[str, Any]:
    return make_export(observed)
