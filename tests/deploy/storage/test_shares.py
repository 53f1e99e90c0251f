"""Option 2 against real servers: knfsd, NFS-Ganesha and Samba on the loopback of a guest.

What runs in it lies in `shares`, a guest for each file. Needs root and debootstrap (guest.py);
some minutes for each kind.
"""

import os
import sys
from pathlib import Path

import guest
import pytest

# A guest has one core, which it shares with whatever else runs here.
GUEST_S_MAX = 1800
IN_PLACE = (
    *("test_publishing.py", "test_folders.py", "test_blobs.py", "test_layers.py"),
    *("test_soft.py", "test_compose_mounts.py"),
)

pytestmark = [
    pytest.mark.skipif(bool(guest.missing()), reason=guest.missing()),
    pytest.mark.timeout(GUEST_S_MAX + 600),
]


def passes(debian: Path, folder: Path, kind: str, name: str) -> None:
    lab = [sys.executable, "tests/support/share_lab.py", kind]
    argv = [*lab, *guest.PYTEST, "--timeout", "600", f"tests/deploy/storage/shares/{name}"]
    with guest.booted(debian, argv, folder=folder, env=guest.ENV) as running:
        code = running.ended(GUEST_S_MAX)
    said = running.tail()
    print(said[said.find(guest.READY) :], file=sys.stderr)
    assert code == 0, said
    (folder / "disk.img").unlink()


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("kind", ["nfs", "ganesha", "smb"])
def test_a_share_holds_what_is_relied_on(
    debian: Path, tmp_path: Path, kind: str, name: str
) -> None:
    passes(debian, tmp_path, kind, name)


@pytest.mark.parametrize("kind", ["squashed", "smb"])
def test_tasks_end_to_end(debian: Path, tmp_path: Path, kind: str) -> None:
    """`squashed`: NFS as exports are unless it is said otherwise, where root is nobody."""
    passes(debian, tmp_path, kind, "test_tasks.py")


def test_a_guest_is_another_kernel(debian: Path, tmp_path: Path) -> None:
    argv = ["sh", "-c", f"test $(uname -r) != {os.uname().release}"]
    with guest.booted(debian, argv, folder=tmp_path) as running:
        assert running.ended(300) == 0
