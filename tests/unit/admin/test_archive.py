"""The file of a backup: what is sealed in it, and that of the version before."""

import base64
import hashlib
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from wfhub_admin import archive, credentials, sealing
from wfhub_admin.outlay import Truth
from wfhub_common import sealed as sealed_values

PASSPHRASE = "correct horse battery staple"
DUMP = b"PGDMP with whsec_of-a-webhook in it" * 100
KEY = bytes(range(32))
MIB = sealing.CHUNK_BYTES


def sealed(plain: bytes) -> bytes:
    target = io.BytesIO()
    sealing.seal(io.BytesIO(plain), target, KEY)
    return target.getvalue()


def opened(content: bytes, key: bytes = KEY) -> bytes:
    target = io.BytesIO()
    sealing.open_(io.BytesIO(content), target, key)
    return target.getvalue()


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB])
def test_what_is_sealed_opens_with_its_key_alone(size: int) -> None:
    plain = os.urandom(size)
    assert opened(sealed(plain)) == plain
    with pytest.raises(sealing.Damaged):
        opened(sealed(plain), KEY[::-1])


def test_chunks_that_were_cut_off_left_out_swapped_or_added_do_not_open() -> None:
    content = sealed(os.urandom(2 * MIB + 5))
    whole = MIB + sealing.TAG_BYTES
    first, second, last = content[:whole], content[whole : 2 * whole], content[2 * whole :]
    for changed in (
        *(first + second, first + last, second + first + last, content + last, b""),
        *(content[:-1], content[:100] + bytes([content[100] ^ 1]) + content[101:]),
    ):
        with pytest.raises(sealing.Damaged):
            opened(changed)


@pytest.fixture
def truth() -> Truth:
    keys = sealed_values.grown(sealed_values.Keys(), 2).to_json()
    return Truth(credentials.new(), "a signing key", "its public one", keys)


def dump_of(file: Path, contents: archive.Contents) -> bytes:
    target = io.BytesIO()
    archive.write_dump(file, contents, target)
    return target.getvalue()


def test_the_database_is_sealed_and_comes_back(tmp_path: Path, truth: Truth) -> None:
    dump, file = tmp_path / archive.DUMP, tmp_path / "hub.wfhub"
    dump.write_bytes(DUMP)
    archive.write(file, dump=dump, blobs=tmp_path / "proofs", truth=truth, passphrase=PASSPHRASE)
    assert b"whsec_" not in file.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {archive.DUMP, file.name}
    assert b"whsec_" not in dump.read_bytes(), "nothing plain is left beside it"
    contents = archive.check(file, PASSPHRASE)
    assert contents.truth == truth
    assert dump_of(file, contents) == DUMP
    assert str(contents.dump_key) not in repr(contents)


def of_format(number: int, file: Path, truth: Truth) -> Path:
    """As the version before wrote it, where `number` is 1."""
    plain = {
        "credentials": truth.credentials.to_json(),
        "signing_key": truth.signing_key,
        "public_key": truth.public_key,
    }
    salt, nonce = os.urandom(16), os.urandom(12)
    cipher = AESGCM(archive._key(PASSPHRASE, salt, archive.SCRYPT))
    parts = {"salt": salt, "nonce": nonce}
    parts["sealed"] = cipher.encrypt(nonce, json.dumps(plain).encode(), None)
    coded = {name: base64.b64encode(part).decode() for name, part in parts.items()}
    members = {
        archive.ABOUT: json.dumps({"format": number, "version": "0.1.0", "made_at": "then"}),
        archive.SECRETS: json.dumps({"kdf": {"name": "scrypt", **archive.SCRYPT}, **coded}),
    }
    content = {name: text.encode() for name, text in members.items()} | {archive.DUMP: DUMP}
    digests = {name: hashlib.sha256(part).hexdigest() for name, part in content.items()}
    end = {"sha256": digests, "blobs": 0, "blob_bytes": 0}
    with tarfile.open(file, "w") as tar:
        for name, part in {**content, archive.DIGESTS: json.dumps(end).encode()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(part)
            tar.addfile(info, io.BytesIO(part))
    return file


def test_a_backup_of_the_version_before_is_read(tmp_path: Path, truth: Truth) -> None:
    file = of_format(1, tmp_path / "old.wfhub", truth)
    contents = archive.check(file, PASSPHRASE)
    assert contents.truth == replace(truth, sealing_keys=""), "it had none"
    assert dump_of(file, contents) == DUMP


@pytest.mark.parametrize(
    ("number", "says"), [(2, "not of the format"), (3, "this version reads 2")]
)
def test_a_format_that_it_has_not_or_that_is_not_known_is_refused(
    number: int, says: str, tmp_path: Path, truth: Truth
) -> None:
    with pytest.raises(SystemExit, match=says):
        archive.check(of_format(number, tmp_path / "odd.wfhub", truth), PASSPHRASE)
