"""Proofs: what one says (in-toto Statement v1), how it is exported, and its offline verification.

The predicate is {"observed": {"scheduler", "runner", "gateway", "proof-store"}}: each field stands
under who saw it. An export is the signed envelope, its place in the log, and the signer's key.
`verify_export` is pure: no network, no clock, no file; it believes only the keys it is given.
Raises: Rejected (`no-trusted-keys`); Corrupt, whose `check` names what failed and whose `fault`
says where: `file` (the export was changed, or is not one), `keys` (signed by a key that is not
trusted), `store` (properly signed, yet it contradicts itself).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wfhub_common import checkpoints, digests, dsse, exchange_chain, merkle, receipts, signing
from wfhub_common.errors import Corrupt, Rejected
from wfhub_common.messages import (
    BUNDLE_ARTIFACT,
    Exchanges,
    Fact,
    Receipt,
    RunnerObservations,
    SchedulerObservations,
)

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://workflow-hub.dev/attestation/task/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"

INCLUSION_HASHES_MAX = 64


class StoreObservations(Fact):
    proof_id: str
    key_id: str
    sealed_at: str  # RFC 3339
    receipts: tuple[Receipt, ...]


class Observed(Fact):
    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True)

    scheduler: SchedulerObservations
    runner: RunnerObservations
    gateway: Exchanges
    proof_store: StoreObservations = Field(alias="proof-store")


class Predicate(Fact):
    observed: Observed


class Subject(Fact):
    name: str
    digest: dict[str, str]


class Statement(Fact):
    model_config = ConfigDict(frozen=True, extra="ignore", validate_by_name=True)

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(STATEMENT_TYPE, alias="_type")
    subject: tuple[Subject, ...]
    predicateType: Literal["https://workflow-hub.dev/attestation/task/v1"] = PREDICATE_TYPE
    predicate: Predicate


class LogEntry(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    leaf_index: int = Field(ge=0)
    tree_size: int = Field(ge=1)
    inclusion_proof: list[str] = Field(max_length=INCLUSION_HASHES_MAX)  # base64, leaf upwards
    checkpoint: str


class Export(BaseModel):
    """`envelope` is kept as it came: its canonical JSON is the log's leaf."""

    model_config = ConfigDict(frozen=True, strict=True)

    proof_id: str
    envelope: dict[str, Any]
    log: LogEntry
    public_key_pem: str


@dataclass(frozen=True)
class VerifiedProof:
    """What a proof says, once nothing in it was refused. `labels` are what a reader must know
    before trusting more than it says; `checks` what was verified, in order."""

    proof_id: str
    task_id: str
    attempt_id: str
    project: str
    runner_id: str
    agent: str
    branch_ref: str
    commit: str
    base_commit: str
    bundle_digest: str
    artifacts: dict[str, str]  # name → digest
    verdict: str
    exchanges_count: int
    replayed_count: int
    prompt_tokens: int
    completion_tokens: int
    sealed_at: str
    key_id: str
    log_origin: str
    leaf_index: int
    tree_size: int
    labels: tuple[str, ...]
    checks: tuple[str, ...]


def branch_ref(task_id: str) -> str:
    return f"refs/heads/wfhub/{task_id}"


def leaf_data(envelope: dict[str, Any]) -> bytes:
    """The bytes that the log hashes; their SHA-256 is the proof's `envelope_digest`."""
    return digests.canonical_json(envelope)


def verify_export(
    export: dict[str, Any], *, trusted_keys: Sequence[signing.PublicKey]
) -> VerifiedProof:
    if not trusted_keys:
        raise Rejected("no-trusted-keys", "give the proof-store's public key to verify against")
    parsed = _parsed(export)
    opened = dsse.open_(parsed.envelope, trusted_keys)
    statement = _statement(opened)
    if parsed.public_key_pem not in {signing.public_pem(key) for key in trusted_keys}:
        raise _refused(
            "public-key", "keys", "the key in the export is none of those that you trust"
        )
    checkpoint = checkpoints.verify(parsed.log.checkpoint, trusted_keys)
    _check_inclusion(parsed, checkpoint)
    observed = statement.predicate.observed
    _check_receipts(observed, trusted_keys)
    _check_consistency(parsed, statement, opened)
    chained = _check_exchanges(observed)
    return _summary(parsed, statement, opened, checkpoint, chained)


def _parsed(export: dict[str, Any]) -> Export:
    try:
        return Export.model_validate(export)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _refused(
            "export", "file", f"this is no exported proof: {where}: {first['msg']}"
        ) from e


def _statement(opened: dsse.Opened) -> Statement:
    if opened.payload_type != PAYLOAD_TYPE:
        raise _refused(
            "statement", "store", f"the envelope holds {opened.payload_type!r}, not a statement"
        )
    try:
        return Statement.model_validate_json(opened.payload)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _refused(
            "statement", "store", f"the statement has another shape: {where}: {first['msg']}"
        ) from e


def _check_inclusion(parsed: Export, checkpoint: checkpoints.Checkpoint) -> None:
    log = parsed.log
    try:
        path = [signing.from_base64(each) for each in log.inclusion_proof]
        leaf = merkle.leaf_hash(leaf_data(parsed.envelope))
    except (ValueError, TypeError) as e:
        raise _refused("inclusion", "file", f"the inclusion proof cannot be read: {e}") from e
    if log.tree_size != checkpoint.size:
        raise _refused(
            "inclusion",
            "file",
            f"the export speaks of {log.tree_size} leaves, its checkpoint of {checkpoint.size}",
        )
    if not merkle.verify_inclusion(leaf, log.leaf_index, checkpoint.size, path, checkpoint.root):
        raise _refused(
            "inclusion", "file", f"the log does not hold this envelope as leaf {log.leaf_index}"
        )


def _check_receipts(observed: Observed, trusted_keys: Sequence[signing.PublicKey]) -> None:
    known = {signing.key_id(key): key for key in trusted_keys}
    for receipt in observed.proof_store.receipts:
        key = known.get(receipt.key_id)
        if key is None:
            raise _refused(
                "receipts",
                "keys",
                f"the receipt for {receipt.name!r} is signed by no key that you trust",
            )
        try:
            receipts.verify(receipt, key)
        except Corrupt as e:
            raise _refused("receipts", "store", e.message) from e


def _check_consistency(parsed: Export, statement: Statement, opened: dsse.Opened) -> None:
    observed = statement.predicate.observed
    scheduler, runner, store = observed.scheduler, observed.runner, observed.proof_store
    if parsed.proof_id != store.proof_id:
        raise _refused(
            "identity", "file", f"the export is named {parsed.proof_id!r}, not {store.proof_id!r}"
        )
    bundles = [each.digest for each in store.receipts if each.name == BUNDLE_ARTIFACT]
    names = [each.name for each in store.receipts]
    expected = (
        ("the key that signed", store.key_id, signing.key_id(opened.key)),
        ("the number of bundles", len(bundles), 1),
        ("the artifact names without repeats", len(names), len(set(names))),
        ("the gateway's attempt", observed.gateway.attempt_id, scheduler.attempt_id),
        ("the reporting runner", runner.runner_id, scheduler.runner_id),
        ("the receipts' attempts", {r.attempt_id for r in store.receipts}, {scheduler.attempt_id}),
        ("the receipts' senders", {r.sender for r in store.receipts}, {scheduler.runner_id}),
    )
    for what, found, wanted in expected:
        if found != wanted:
            raise _refused("consistency", "store", f"{what}: {found!r} instead of {wanted!r}")
    wanted_subject = subjects_of(scheduler.task_id, runner.commit, bundles[0])
    if statement.subject != wanted_subject:
        raise _refused(
            "consistency", "store", "the statement's subject is not what was observed and received"
        )


def _check_exchanges(observed: Observed) -> int:
    try:
        return exchange_chain.check(observed.gateway)
    except Corrupt as e:
        raise _refused("exchanges", "store", e.message) from e


def subjects_of(task_id: str, commit: str, bundle_digest: str) -> tuple[Subject, Subject]:
    """What a proof is about: the branch's commit, and the bundle that holds it."""
    bundle = digests.hex_of(digests.Digest(bundle_digest))
    return (
        Subject(name=branch_ref(task_id), digest={"gitCommit": commit}),
        Subject(name=BUNDLE_ARTIFACT, digest={"sha256": bundle}),
    )


def _summary(
    parsed: Export,
    statement: Statement,
    opened: dsse.Opened,
    checkpoint: checkpoints.Checkpoint,
    chained: int,
) -> VerifiedProof:
    observed = statement.predicate.observed
    scheduler, runner, store = observed.scheduler, observed.runner, observed.proof_store
    artifacts = {each.name: each.digest for each in store.receipts}
    return VerifiedProof(
        proof_id=store.proof_id,
        task_id=scheduler.task_id,
        attempt_id=scheduler.attempt_id,
        project=scheduler.project,
        runner_id=scheduler.runner_id,
        agent=runner.agent,
        branch_ref=branch_ref(scheduler.task_id),
        commit=runner.commit,
        base_commit=runner.base_commit,
        bundle_digest=artifacts[BUNDLE_ARTIFACT],
        artifacts=artifacts,
        verdict=str(runner.verdict.status),
        exchanges_count=len(observed.gateway.exchanges),
        replayed_count=sum(each.replayed for each in observed.gateway.exchanges),
        prompt_tokens=observed.gateway.prompt_tokens,
        completion_tokens=observed.gateway.completion_tokens,
        sealed_at=store.sealed_at,
        key_id=signing.key_id(opened.key),
        log_origin=checkpoint.origin,
        leaf_index=parsed.log.leaf_index,
        tree_size=checkpoint.size,
        labels=_labels(observed),
        checks=(
            "the envelope is signed by a trusted key",
            "the statement is an in-toto Statement v1 about a task",
            "the log's checkpoint is signed by a trusted key",
            f"the log holds the envelope as leaf {parsed.log.leaf_index} of {checkpoint.size}",
            f"{len(store.receipts)} artifact receipts are signed by a trusted key",
            "subject, receipts and observations agree with each other",
            f"{chained} of {len(observed.gateway.exchanges)} exchanges with models are one chain",
        ),
    )


def _labels(observed: Observed) -> tuple[str, ...]:
    exchanges = observed.gateway.exchanges
    labels = []
    replayed = sum(each.replayed for each in exchanges)
    if replayed:
        labels.append(
            f"{replayed} of {len(exchanges)} model exchanges were replayed from a cassette,"
            " not answered by a model"
        )
    if unlinked := sum(not each.link for each in exchanges):
        labels.append(f"{unlinked} of {len(exchanges)} model exchanges are in no chain")
    labels += sorted({f"gateway: {each.note}" for each in exchanges if each.note})
    if not exchanges:
        labels.append("the gateway saw no exchange with a model")
    if observed.runner.verdict.status != "passed":
        labels.append(f"verification: {observed.runner.verdict.status}")
    if tests := max(observed.runner.tests_changed_total, len(observed.runner.tests_changed)):
        labels.append(f"tests were changed or deleted: {tests}")
    if observed.runner.ci_files_total:
        labels.append(f"CI files were changed or deleted: {observed.runner.ci_files_total}")
    if observed.runner.ci_files_unclear:
        labels.append(f"CI files may have been changed: {observed.runner.ci_files_unclear}")
    return tuple(labels)


def _refused(check: str, fault: str, why: str) -> Corrupt:
    advice = {
        "file": "get the proof again from its source",
        "keys": "trust that key if you know whose it is, otherwise do not use the proof",
        "store": "ask the operator of the proof-store that signed it",
    }[fault]
    return Corrupt(f"proof-{check}", f"{why}; {advice}", check=check, fault=fault)
