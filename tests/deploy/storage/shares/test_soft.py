"""Why a soft mount is called dangerous."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import share_lab
from share_lab import Server
from wfhub_common import digests
from wfhub_proof_store.blobs import Blobs

from .conftest import KIND
from .processes import child, told

BYTES_MAX = 1024 * 1024

pytestmark = pytest.mark.skipif(KIND not in ("nfs", "ganesha"), reason="what NFS's client does")


@pytest.fixture
def soft(server: Server) -> Iterator[Path]:
    with server.mounted(Path("/soft"), f"soft,timeo=10,retrans=1,{server.apart}") as at:
        yield at


def careless(path: Path, away: int) -> Iterator[object]:
    """A program that is told that its bytes are written, and ends well."""
    file = os.open(path, os.O_WRONLY)
    yield "opened"
    os.read(away, 1)
    yield os.write(file, b"work")


def test_what_a_program_wrote_is_lost_unless_it_asks(
    server: Server, here: Path, soft: Path
) -> None:
    inner = soft / here.name
    (here / "file").write_bytes(b"")
    blobs = Blobs(inner / "proofs", bytes_max=BYTES_MAX)
    waiting, away = os.pipe()
    program = child(lambda: careless(inner / "file", waiting))
    assert program.next() == "opened"
    with suppress(OSError), blobs.upload(digests.of_bytes(b"work")) as upload:
        server.stop()
        try:
            os.write(away, b"x")
            assert told(program) == [len(b"work")]
            upload.write(b"work")
            with pytest.raises(OSError, match=r"timed out|Input/output|not responding"):
                upload.commit()
        finally:
            server.start()
    assert (share_lab.FOLDER / here.name / "file").read_bytes() == b""
    # Who asked was told, and acknowledged nothing; a hard mount would have waited.
    assert blobs.size(digests.of_bytes(b"work")) is None
    blobs.close()
