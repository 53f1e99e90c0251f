"""Keys, receipts, envelopes and checkpoints: made once, and refused after any change."""

import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wfhub_common import checkpoints, dsse, receipts, signing
from wfhub_common.errors import Corrupt, Rejected
from wfhub_common.messages import Receipt

reused = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


# --- keys -------------------------------------------------------------------------------


def test_a_key_is_made_once_private_and_with_its_public_half(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "signing.pem"
    old_umask = os.umask(0)
    try:
        first = signing.load_or_create_private_key(path)
    finally:
        os.umask(old_umask)
    again = signing.load_or_create_private_key(path)
    beside = signing.load_public_key(signing.public_key_path(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing.key_id(first.public_key()) == signing.key_id(again.public_key())
    assert signing.key_id(beside) == signing.key_id(first.public_key())
    assert sorted(p.name for p in path.parent.iterdir()) == ["signing.pem", "signing.pem.pub"]


def test_processes_that_start_at_once_end_with_one_key(tmp_path: Path) -> None:
    path, found = tmp_path / "signing.pem", []
    start = threading.Barrier(8)

    def load() -> None:
        start.wait()
        found.append(signing.key_id(signing.load_or_create_private_key(path).public_key()))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_public_key_loads_from_its_text_too(key: signing.PrivateKey) -> None:
    pem = signing.public_pem(key.public_key())
    assert signing.key_id(signing.load_public_key(pem)) == signing.key_id(key.public_key())


@pytest.mark.parametrize("text", ["", "nonsense", "-----BEGIN PUBLIC KEY-----\nAA==\n"])
def test_what_is_no_key_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "some.pem"
    path.write_text(text)
    for load in (signing.load_public_key, signing.load_or_create_private_key):
        with pytest.raises(Rejected, match=r"some\.pem"):
            load(path)


# --- receipts ---------------------------------------------------------------------------


def test_a_receipt_verifies_with_its_key_and_no_other(
    key: signing.PrivateKey, receipt: Receipt
) -> None:
    receipts.verify(receipt, key.public_key())
    with pytest.raises(Corrupt, match="not trusted"):
        receipts.verify(receipt, signing.generate_private_key().public_key())


@pytest.mark.parametrize("field", Receipt.model_fields)
@pytest.mark.hostile(21)
def test_a_receipt_with_any_field_changed_is_refused(
    key: signing.PrivateKey, receipt: Receipt, field: str
) -> None:
    value = getattr(receipt, field)
    positions = range(len(value)) if isinstance(value, str) else range(1)
    for at in positions:
        changed = (
            value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]
            if isinstance(value, str)
            else value + 1
        )
        with pytest.raises(Corrupt) as refused:
            receipts.verify(receipt.model_copy(update={field: changed}), key.public_key())
        assert refused.value.code == "receipt-signature"


def test_a_receipt_signature_is_no_envelope_signature(
    key: signing.PrivateKey, receipt: Receipt
) -> None:
    fields = receipts.digests.canonical_json(
        receipt.model_dump(mode="json", exclude={"key_id", "signature"})
    )
    assert not signing.verify(
        key.public_key(), signing.from_base64(receipt.signature), dsse.pae("other/type", fields)
    )


# --- envelopes --------------------------------------------------------------------------


def test_pae_matches_the_published_example() -> None:
    encoded = dsse.pae("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_an_envelope_opens_with_a_trusted_key_only(key: signing.PrivateKey) -> None:
    envelope = dsse.seal("t", b"payload", key).model_dump()
    stranger = signing.generate_private_key().public_key()
    assert dsse.open_(envelope, [stranger, key.public_key()]).payload == b"payload"
    with pytest.raises(Corrupt) as refused:
        dsse.open_(envelope, [stranger])
    assert refused.value.fields["fault"] == "keys"


def test_an_envelope_with_another_payload_is_the_files_fault(key: signing.PrivateKey) -> None:
    envelope = dsse.seal("t", b"payload", key).model_dump()
    for change in ({"payload": signing.to_base64(b"poyload")}, {"payloadType": "u"}):
        with pytest.raises(Corrupt) as refused:
            dsse.open_({**envelope, **change}, [key.public_key()])
        assert refused.value.fields["fault"] == "file"


def test_base64_with_stray_bits_is_refused() -> None:
    assert signing.from_base64("AA==") == b"\x00"
    for other in ("AB==", "AA=", "AA", " AA==", "AA==\n"):
        with pytest.raises(ValueError, match=r"base64|padding|Only|Excess|data"):
            signing.from_base64(other)


# --- checkpoints ------------------------------------------------------------------------

ROOT = bytes(range(32))


def test_a_checkpoint_reads_as_the_format_says(key: signing.PrivateKey) -> None:
    note = checkpoints.sign(checkpoints.Checkpoint("example.org/log", 5, ROOT), key)
    text, _, tail = note.partition("\n\n")
    assert text == "example.org/log\n5\n" + signing.to_base64(ROOT)
    dash, name, blob = tail.removesuffix("\n").split(" ")
    assert (dash, name) == ("\u2014", "example.org/log")
    assert len(signing.from_base64(blob)) == 4 + 64


def test_the_key_hash_is_that_of_the_format_s_own_example() -> None:
    # The verifier key in the documentation of Go's package note: name+hash+base64(type, key).
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    name, key_hash, encoded = vkey.split("+", 2)
    raw = signing.from_base64(encoded)
    key = signing.PublicKey.from_public_bytes(raw[1:])
    assert raw[:1] == checkpoints.ED25519_TYPE
    assert checkpoints._key_hash(name, key).hex() == key_hash


def test_a_witness_line_is_passed_over(key: signing.PrivateKey) -> None:
    signed = checkpoints.sign(checkpoints.Checkpoint("log", 5, ROOT), key)
    other = checkpoints.sign(checkpoints.Checkpoint("log", 5, ROOT), signing.generate_private_key())
    witness = other.rpartition("\n\n")[2].replace("log", "witness.example")
    text, _, ours = signed.rpartition("\n\n")
    found = checkpoints.verify(f"{text}\n\n{witness}{ours}", [key.public_key()])
    assert found == checkpoints.Checkpoint("log", 5, ROOT)


@pytest.mark.hostile(21)
def test_a_checkpoint_with_any_character_changed_is_refused(key: signing.PrivateKey) -> None:
    note = checkpoints.sign(checkpoints.Checkpoint("example.org/log", 5, ROOT), key)
    for at, character in enumerate(note):
        for mask in (1, 0x20):
            changed = note[:at] + chr(ord(character) ^ mask) + note[at + 1 :]
            with pytest.raises(Corrupt):
                checkpoints.verify(changed, [key.public_key()])


@pytest.mark.parametrize("more", ["extension\n", "\ud800\n", "\n"])
def test_text_added_to_a_signed_checkpoint_is_refused(key: signing.PrivateKey, more: str) -> None:
    note = checkpoints.sign(checkpoints.Checkpoint("log", 5, ROOT), key)
    text, _, tail = note.rpartition("\n\n")
    for changed in (f"{text}\n{more}\n{tail}", more + note):
        with pytest.raises(Corrupt):
            checkpoints.verify(changed, [key.public_key()])


@reused
@given(noise=st.text(max_size=300))
def test_noise_is_no_checkpoint(key: signing.PrivateKey, noise: str) -> None:
    with pytest.raises(Corrupt):
        checkpoints.verify(noise, [key.public_key()])
