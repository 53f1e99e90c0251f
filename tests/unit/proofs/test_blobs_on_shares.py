"""What SMB's client says of a call that its server's end cut; for real: tests/deploy/storage."""

import errno
import os
from pathlib import Path

import pytest
from wfhub_common import digests
from wfhub_proof_store.blobs import Blobs, StorageAway

DATA = b"work"


def store(blobs: Blobs) -> bool:
    with blobs.upload(digests.of_bytes(DATA)) as upload:
        upload.write(DATA)
        return upload.commit()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EHOSTDOWN, errno.ECONNABORTED])
def test_a_lost_server_is_told_as_try_again_and_nothing_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def cut(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    blobs = Blobs(tmp_path / "proofs", bytes_max=1024)
    with monkeypatch.context() as lost:
        lost.setattr(os, "fsync", cut)
        with pytest.raises(StorageAway, match="send again") as told:
            store(blobs)
    assert told.value.kind == "retry-later"
    assert blobs.size(digests.of_bytes(DATA)) is None
    assert store(blobs)
    blobs.close()


def test_what_is_missing_where_the_share_is_not_mounted_is_not_said_to_be_lost(
    tmp_path: Path,
) -> None:
    root, mounted = tmp_path / "proofs", tmp_path / "elsewhere"
    blobs, digest = Blobs(root, bytes_max=1024), digests.of_bytes(DATA)
    store(blobs)
    root.rename(mounted)
    root.mkdir()  # the empty folder below a share
    for look in (blobs.size, blobs.open):
        with pytest.raises(StorageAway, match="PROOFS_ROOT"):
            look(digest)
    root.rmdir()
    mounted.rename(root)
    assert blobs.size(digest) == len(DATA)
    assert blobs.size(digests.of_bytes(b"never stored")) is None
    blobs.close()
