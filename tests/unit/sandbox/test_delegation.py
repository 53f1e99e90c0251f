"""Where this process is among the mounted cgroups, by the kernel's tables."""

from pathlib import Path

import pytest
from wfhub_agent_runner.sandbox import delegation
from wfhub_agent_runner.sandbox.delegation import Hierarchy


def found(home: Path, cgroup: str, *mounts: str) -> list[Hierarchy]:
    (home / "cgroup").write_text(cgroup)
    lines = [f"{30 + n} 23 0:{n} {mount}\n" for n, mount in enumerate(mounts)]
    (home / "mountinfo").write_text("".join(lines))
    return list(delegation.hierarchies(home))


def v1(root: str, at: Path, controllers: str) -> str:
    at.mkdir(parents=True, exist_ok=True)
    return f"{root} {at} rw,relatime shared:9 - cgroup cgroup rw,{controllers}"


def v2(root: str, at: Path) -> str:
    at.mkdir(parents=True, exist_ok=True)
    return f"{root} {at} rw,relatime - cgroup2 cgroup2 rw,nsdelegate"


def test_v2_is_found_where_the_process_is(tmp_path: Path) -> None:
    own = tmp_path / "cg" / "user.slice" / "a.scope"
    own.mkdir(parents=True)
    hierarchies = found(tmp_path, "0::/user.slice/a.scope\n", v2("/", tmp_path / "cg"))
    assert hierarchies == [Hierarchy(own, frozenset(), v2=True)]


def test_each_controller_of_v1_is_found_also_where_two_are_mounted_together(
    tmp_path: Path,
) -> None:
    (tmp_path / "memory" / "box").mkdir(parents=True)
    hierarchies = found(
        tmp_path,
        "9:name=systemd:/x\n4:memory:/box\n2:cpu,cpuacct:/\n0::/\n",
        v1("/", tmp_path / "memory", "memory"),
        v1("/", tmp_path / "cpu", "cpu,cpuacct"),
        "/ /sys rw - sysfs sysfs rw",
    )
    assert hierarchies == [
        Hierarchy(tmp_path / "memory" / "box", frozenset({"memory"}), v2=False),
        Hierarchy(tmp_path / "cpu", frozenset({"cpu", "cpuacct"}), v2=False),
    ]


def test_in_a_container_the_mount_begins_where_the_process_is(tmp_path: Path) -> None:
    hierarchies = found(
        tmp_path, "4:memory:/docker/abc\n", v1("/docker/abc", tmp_path / "memory", "memory")
    )
    assert hierarchies == [Hierarchy(tmp_path / "memory", frozenset({"memory"}), v2=False)]


def test_a_mount_of_elsewhere_is_left_out(tmp_path: Path) -> None:
    at = tmp_path / "memory"
    assert found(tmp_path, "4:memory:/docker/abc\n", v1("/docker/other", at, "memory")) == []
    assert found(tmp_path, "4:memory:/not-there\n", v1("/", at, "memory")) == []


@pytest.mark.parametrize("missing", ["cpu", "memory", "pids"])
def test_v2_without_a_controller_and_no_v1_is_said_with_its_name(
    tmp_path: Path, missing: str
) -> None:
    group = tmp_path / "cg"
    mount = v2("/", group)
    there = " ".join({"cpu", "memory", "pids"} - {missing})
    (group / "cgroup.controllers").write_text(there)
    (tmp_path / "cgroup").write_text("0::/\n")
    (tmp_path / "mountinfo").write_text(f"30 23 0:1 {mount}\n")
    made = delegation.delegate("r", 64001, tmp_path)
    assert made.folders == ()
    assert f"it has no {missing} controller" in made.why
    assert not (group / "wfhub-r").exists()
