"""Offline verification of exported proofs: what it accepts, shows, refuses, and whom it blames."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from exchange_chains import chained
from wfhub_common import proofs, receipts, signing
from wfhub_common.errors import Corrupt, Rejected, WfhubError
from wfhub_common.messages import Exchanges, Receipt

Make = Callable[..., dict[str, Any]]


def fault_of(export: dict[str, Any], *keys: signing.PrivateKey) -> tuple[str, str]:
    with pytest.raises(Corrupt) as refused:
        proofs.verify_export(export, trusted_keys=[key.public_key() for key in keys])
    return refused.value.code, refused.value.fields["fault"]


def test_a_proof_verifies_and_says_what_it_is_about(
    export: dict[str, Any], key: signing.PrivateKey
) -> None:
    found = proofs.verify_export(export, trusted_keys=[key.public_key()])
    assert found.branch_ref == f"refs/heads/wfhub/{found.task_id}"
    assert found.commit == "c" * 40
    assert found.artifacts["result.bundle"] == found.bundle_digest == "sha256:" + "b" * 64
    assert (found.leaf_index, found.tree_size) == (4, 7)
    assert (found.exchanges_count, found.replayed_count, found.verdict) == (2, 0, "passed")
    assert len(found.checks) == 7
    assert found.labels == ()


def test_an_export_survives_json(export: dict[str, Any], key: signing.PrivateKey) -> None:
    again = json.loads(json.dumps(export, indent=2, ensure_ascii=False))
    proofs.verify_export(again, trusted_keys=[key.public_key()])


@pytest.mark.hostile(21)
def test_one_changed_byte_anywhere_is_refused(
    export: dict[str, Any], key: signing.PrivateKey
) -> None:
    text = json.dumps(export, separators=(",", ":")).encode()
    trusted = [key.public_key()]
    accepted = []
    for at in range(len(text)):
        for mask in (0x01, 0x20):
            changed = bytearray(text)
            changed[at] ^= mask
            try:
                proofs.verify_export(json.loads(changed), trusted_keys=trusted)
            except (WfhubError, ValueError):
                continue
            accepted.append((at, mask, text[max(0, at - 20) : at + 20]))
    assert accepted == []


def test_a_replayed_or_handwritten_exchange_is_labelled(
    make_export: Make, observed: proofs.Observed, key: signing.PrivateKey
) -> None:
    first, second = observed.gateway.exchanges
    update: dict[str, Any] = {"replayed": True, "note": "cassette written by hand"}
    replayed = observed.gateway.model_copy(
        update={"exchanges": (first, second.model_copy(update=update))}
    )
    export = make_export(observed.model_copy(update={"gateway": chained(replayed)}))
    found = proofs.verify_export(export, trusted_keys=[key.public_key()])
    assert found.replayed_count == 1
    assert "1 of 2 model exchanges were replayed" in found.labels[0]
    assert "gateway: cassette written by hand" in found.labels


def test_an_attempt_without_a_model_is_labelled(
    make_export: Make, observed: proofs.Observed, key: signing.PrivateKey
) -> None:
    none = Exchanges(attempt_id=observed.scheduler.attempt_id)
    export = make_export(observed.model_copy(update={"gateway": none}))
    found = proofs.verify_export(export, trusted_keys=[key.public_key()])
    assert found.labels == ("the gateway saw no exchange with a model",)


def test_without_a_trusted_key_nothing_is_verified(export: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match="public key"):
        proofs.verify_export(export, trusted_keys=[])


def test_the_embedded_key_is_not_believed(
    make_export: Make, observed: proofs.Observed, key: signing.PrivateKey
) -> None:
    forger = signing.generate_private_key()
    forged = make_export(observed, signed_with=forger)
    forged["public_key_pem"] = signing.public_pem(forger.public_key())
    assert fault_of(forged, key) == ("envelope-signature", "keys")


def test_an_embedded_key_that_is_not_trusted_is_refused(
    export: dict[str, Any], key: signing.PrivateKey
) -> None:
    other = signing.public_pem(signing.generate_private_key().public_key())
    assert fault_of({**export, "public_key_pem": other}, key) == ("proof-public-key", "keys")


def test_a_checkpoint_by_a_stranger_is_refused(
    export: dict[str, Any],
    make_export: Make,
    observed: proofs.Observed,
    key: signing.PrivateKey,
) -> None:
    stranger = make_export(observed, signed_with=signing.generate_private_key())
    mixed = {**export, "log": stranger["log"]}
    assert fault_of(mixed, key) == ("checkpoint-signature", "keys")


@pytest.mark.parametrize(
    "change",
    [{"leaf_index": 3}, {"tree_size": 8}, {"inclusion_proof": []}, {"inclusion_proof": ["A"]}],
)
def test_another_place_in_the_log_is_refused(
    export: dict[str, Any], key: signing.PrivateKey, change: dict[str, Any]
) -> None:
    changed = {**export, "log": {**export["log"], **change}}
    assert fault_of(changed, key) == ("proof-inclusion", "file")


@pytest.mark.parametrize("change", [{}, {"envelope": None}, {"log": {}}, {"proof_id": 7}])
def test_what_is_no_export_is_refused(
    export: dict[str, Any], key: signing.PrivateKey, change: dict[str, Any]
) -> None:
    assert fault_of({**export, **change} if change else {}, key) == ("proof-export", "file")


def _replaced(value: Any, new: Any) -> list[Any]:
    """Copies of a JSON value, each with one string or number in it replaced."""
    if isinstance(value, dict):
        return [{**value, k: each} for k, v in value.items() for each in _replaced(v, new)]
    if isinstance(value, list):
        return [
            [*value[:at], each, *value[at + 1 :]]
            for at, item in enumerate(value)
            for each in _replaced(item, new)
        ]
    return [new]


@pytest.mark.parametrize("new", ["\ud800", "", None, -1, 1.5, 10**400, True, [], {}])
def test_odd_values_anywhere_are_refused_by_name(
    export: dict[str, Any], key: signing.PrivateKey, new: Any
) -> None:
    for changed in _replaced(export, new):
        with pytest.raises(Corrupt) as refused:
            proofs.verify_export(changed, trusted_keys=[key.public_key()])
        assert refused.value.fields["fault"] in {"file", "keys"}


def test_a_signed_thing_that_is_no_statement_is_the_stores_fault(
    make_export: Make, observed: proofs.Observed, key: signing.PrivateKey
) -> None:
    export = make_export(observed, payload_type="text/plain")
    assert fault_of(export, key) == ("proof-statement", "store")


def test_a_subject_that_was_not_observed_is_the_stores_fault(
    make_export: Make, observed: proofs.Observed, key: signing.PrivateKey
) -> None:
    task_id = observed.scheduler.task_id
    bundle = observed.proof_store.receipts[0].digest
    other = proofs.subjects_of(task_id, "f" * 40, bundle)
    assert fault_of(make_export(observed, subject=other), key) == ("proof-consistency", "store")


def _with_receipts(observed: proofs.Observed, *given: Receipt) -> proofs.Observed:
    store = observed.proof_store.model_copy(update={"receipts": given})
    return observed.model_copy(update={"proof_store": store})


def test_a_forged_receipt_in_a_signed_proof_is_refused(
    make_export: Make, observed: proofs.Observed, key: signing.PrivateKey
) -> None:
    bundle, log = observed.proof_store.receipts
    forged = log.model_copy(update={"size": log.size + 1})
    export = make_export(_with_receipts(observed, bundle, forged))
    assert fault_of(export, key) == ("proof-receipts", "store")


@pytest.mark.parametrize("change", [{"attempt_id": "att_other"}, {"sender": "rnr_other"}])
def test_a_receipt_of_another_attempt_or_runner_is_refused(
    make_export: Make,
    observed: proofs.Observed,
    key: signing.PrivateKey,
    change: dict[str, str],
) -> None:
    bundle, log = observed.proof_store.receipts
    other = receipts.sign(log.model_copy(update=change), key)
    export = make_export(_with_receipts(observed, bundle, other))
    assert fault_of(export, key) == ("proof-consistency", "store")


def test_exchanges_of_another_attempt_are_refused(
    make_export: Make, observed: proofs.Observed, key: signing.PrivateKey
) -> None:
    other = observed.gateway.model_copy(update={"attempt_id": "att_other"})
    export = make_export(observed.model_copy(update={"gateway": other}))
    assert fault_of(export, key) == ("proof-consistency", "store")


def test_an_exchange_that_was_changed_after_it_was_linked_is_the_stores_fault(
    make_export: Make, observed: proofs.Observed, key: signing.PrivateKey
) -> None:
    first, second = observed.gateway.exchanges
    for changed in ((first,), (first, second.model_copy(update={"replayed": True}))):
        other = observed.gateway.model_copy(update={"exchanges": changed})
        export = make_export(observed.model_copy(update={"gateway": other}))
        assert fault_of(export, key) == ("proof-exchanges", "store")


def test_exchanges_that_are_in_no_chain_are_labelled(
    make_export: Make, observed: proofs.Observed, key: signing.PrivateKey
) -> None:
    first, second = observed.gateway.exchanges
    open_ = second.model_copy(update={"link": 0, "record_digest": ""})
    only = chained(observed.gateway.model_copy(update={"exchanges": (first,)}))
    other = only.model_copy(update={"exchanges": (*only.exchanges, open_)})
    export = make_export(observed.model_copy(update={"gateway": other}))
    found = proofs.verify_export(export, trusted_keys=[key.public_key()])
    assert found.labels == ("1 of 2 model exchanges are in no chain",)
