"""The proof-store's blobs on a share: whole, for all replicas, there after the server's end."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import share_lab
from share_lab import Server
from wfhub_common import digests
from wfhub_proof_store.blobs import Blobs, StorageAway

from .processes import child, told

BYTES_MAX = 64 * 1024 * 1024
BLOBS, BLOB_BYTES = 40, 512 * 1024


def put(blobs: Blobs, data: bytes) -> bool:
    with blobs.upload(digests.of_bytes(data)) as upload:
        upload.write(data)
        return upload.commit()


def acknowledged(blobs: Blobs, number: int) -> bool:
    try:
        put(blobs, content(number))
    except StorageAway:
        return False
    return True


def content(number: int) -> bytes:
    return number.to_bytes(4, "big") * (BLOB_BYTES // 4)


@pytest.fixture
def blobs(here: Path) -> Iterator[Blobs]:
    opened = Blobs(here / "proofs", bytes_max=BYTES_MAX)
    yield opened
    opened.close()


def test_replicas_on_two_clients_share_them(blobs: Blobs, there: Path) -> None:
    other = Blobs(there / "proofs", bytes_max=BYTES_MAX)
    data = os.urandom(1024 * 1024 + 1)
    assert put(blobs, data)
    found = other.open(digests.of_bytes(data))
    assert found is not None
    with found:
        assert found.read() == data
    assert not put(other, data)
    # A third one's start removes nothing of the two that live.
    with other.upload(digests.of_bytes(b"later")) as upload:
        upload.write(b"later")
        Blobs(there / "proofs", bytes_max=BYTES_MAX).close()
        assert upload.commit()
    other.close()
    assert len([path for path in (blobs.root / "tmp").iterdir() if path.is_dir()]) == 1


def test_a_dead_ones_uploads_are_removed_by_the_next(here: Path, there: Path) -> None:
    def half() -> object:
        upload = Blobs(here / "proofs", bytes_max=BYTES_MAX).upload(digests.of_bytes(b"x"))
        upload.write(b"y" * 1000)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    assert told(child(half)) == []
    left = here / "proofs" / "tmp"
    assert [path for path in left.iterdir() if path.is_dir()]
    opened = Blobs(there / "proofs", bytes_max=BYTES_MAX)
    folders = [path for path in (there / "proofs" / "tmp").iterdir() if path.is_dir()]
    opened.close()
    assert len(folders) == 1


def test_what_was_acknowledged_is_there_after_the_server_was_killed_in_mid_write(
    server: Server, here: Path
) -> None:
    """With a hard mount a writer waits for the server: on NFS it fails at nothing, on SMB what was
    cut is to be sent again. The server's own disk is asked."""

    def write() -> Iterator[object]:
        blobs = Blobs(here / "proofs", bytes_max=BYTES_MAX)
        for number in range(BLOBS):
            while not acknowledged(blobs, number):
                assert server.kind == "smb"
            yield number
        blobs.close()

    writer = child(write)
    done = [writer.next() for _ in range(BLOBS // 8)]
    server.stop()
    server.start()
    done += told(writer)
    assert done == list(range(BLOBS))
    on_disk = share_lab.FOLDER / here.name / "proofs" / "sha256"
    for number in range(BLOBS):
        name = digests.hex_of(digests.of_bytes(content(number)))
        assert (on_disk / name[:2] / name[2:4] / name).read_bytes() == content(number)
