"""Which programs start containers, and how they are asked: by programs that answer as they do."""

from pathlib import Path

import pytest
from wfhub_agent_runner.sandbox import runtimes
from wfhub_common.errors import Rejected
from wfhub_common.messages import Limits

GVISOR = "runsc version 0.0~20240729.0"


def program(folder: Path, version: str) -> str:
    path = folder / "runtime"
    path.write_text(f"#!/bin/sh\necho '{version}'\necho 'spec: 1.0.0'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("version", "told", "is_gvisor"),
    [
        ("crun version 1.8.1", "crun 1.8.1", False),
        (GVISOR, "runsc 0.0~20240729.0", True),
        ("runsc version release-20260101.0", "runsc release-20260101.0", True),
    ],
)
def test_crun_and_gvisor_are_known(
    tmp_path: Path, version: str, told: str, is_gvisor: bool
) -> None:
    found = runtimes.find(program(tmp_path, version))
    assert (found.version, found.is_gvisor) == (told, is_gvisor)


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("runc version 1.1.5", "neither crun nor runsc"),
        ("runsc version 0.0~20221219.0", "cannot pass a descriptor"),
        ("runsc version VERSION_MISSING", "cannot pass a descriptor"),
    ],
)
def test_what_would_not_work_is_refused_with_why(tmp_path: Path, version: str, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        runtimes.find(program(tmp_path, version))


def test_none_is_refused_with_what_to_install() -> None:
    with pytest.raises(Rejected, match="install crun"):
        runtimes.find("no-such-program")


def test_both_hand_the_same_descriptors_on() -> None:
    folders = Path("/state"), Path("/bundle")
    crun = runtimes.Runtime(Path("/usr/bin/crun"), "crun 1").words(*folders, [5, 9, 7])
    gvisor = runtimes.Runtime(Path("/usr/bin/runsc"), "runsc 1", True).words(*folders, [5, 9, 7])
    assert crun[-3:] == ["--preserve-fds", "7", "wfhub"]
    assert gvisor[-4:] == ["--pass-fd=5:5", "--pass-fd=9:9", "--pass-fd=7:7", "wfhub"]
    assert "--network=none" in gvisor


def test_a_cgroup_has_room_for_gvisors_own_threads(tmp_path: Path) -> None:
    limits = Limits()
    gvisor = runtimes.find(program(tmp_path, GVISOR))
    assert gvisor.held(limits).processes > 2 * limits.processes
    assert runtimes.find(program(tmp_path, "crun version 1")).held(limits) == limits
