"""Option 2's page, typed in a guest: its kernel has the clients that this machine's may lack.

What is typed there is storage/shares/test_page.py. The images are put on the guest's disk from
here, where that takes seconds.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import guest
import pytest
from docker_lab import TARGETS, Daemon, daemon, hand_on

GUEST_S_MAX = 2400  # some minutes on a machine with nothing else to do

pytestmark = pytest.mark.timeout(GUEST_S_MAX + 1500)


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_the_page_of_the_network_storage_option(
    builder: Daemon, folder: Path, debian: Path, tmp_path: Path
) -> None:
    image = guest.disk(tmp_path / "disk.img")
    with (
        mounted(image, tmp_path / "disk") as disk,
        daemon(folder / "loader", own_network=False, data=disk / "docker") as loader,
    ):
        hand_on(builder, loader, [f"workflow-hub/{target}:0.1.0" for target in TARGETS])
    lab = [sys.executable, "tests/support/share_lab.py", "squashed"]
    argv = [*lab, *guest.PYTEST, "tests/deploy/storage/shares/test_page.py"]
    with guest.booted(
        debian, argv, folder=tmp_path / "guest", image=image, env=guest.ENV
    ) as running:
        code = running.ended(GUEST_S_MAX)
    said = running.tail()
    print(said[said.find(guest.READY) :], file=sys.stderr)
    assert code == 0, said
    image.unlink()
