"""Cgroups: memory, CPU and processes held by the kernel, where folders were delegated to us.

`roots` are cgroups that this uid may make children in: one of v2, which has the controllers enabled
for its children and no processes of its own; or of v1, one in each controller's hierarchy.
Shape: one child a run in each, removed when the run is over. Units: bytes, *_us.
Raises: Rejected when a folder is not such a one; OSError when a child cannot be made.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wfhub_common.errors import Rejected
from wfhub_common.messages import Limits

from wfhub_agent_runner.sandbox.port import LimitExceeded

CONTROLLERS = ("memory", "cpu", "pids")
PERIOD_US = 100_000  # in each of these a run gets its share of CPU time
V2, V1 = "cgroup-v2", "cgroup-v1"
_TELLS = {"memory": "memory.limit_in_bytes", "cpu": "cpu.cfs_quota_us", "pids": "pids.max"}  # v1's
_OWN_PROCESSES = 4  # bwrap or crun, a container's first, the starter and the forwarder


@dataclass(frozen=True)
class Cgroups:
    kind: str
    roots: Mapping[str, Path]  # by controller

    @classmethod
    def open(cls, roots: Sequence[Path]) -> "Cgroups":
        if len(roots) == 1 and (roots[0] / "cgroup.controllers").exists():
            enabled = _read(roots[0] / "cgroup.subtree_control").split()
            missing = [name for name in CONTROLLERS if name not in enabled]
            if missing:
                words = " ".join(f"+{name}" for name in missing)
                raise Rejected(
                    "sandbox-cgroup",
                    f"{roots[0]} has {', '.join(missing)} not enabled for its children: write"
                    f" '{words}' to its cgroup.subtree_control",
                )
            found = cls(V2, dict.fromkeys(CONTROLLERS, roots[0]))
        else:
            found = cls(V1, {_controller(root): root for root in roots})
        for root in roots:
            if not os.access(root, os.W_OK):
                raise Rejected(
                    "sandbox-cgroup", f"{root} is not delegated: uid {os.getuid()} may not write"
                )
        return found

    def create(self, limits: Limits) -> "Group":
        name = f"run-{secrets.token_hex(8)}"
        group = Group(self.kind, {which: root / name for which, root in self.roots.items()})
        try:
            for path in group.folders():
                path.mkdir()
            for which, path in group.paths.items():
                for file, value in _SETTINGS[self.kind, which](limits).items():
                    _write(path / file, value)
        except OSError:
            group.remove()
            raise
        return group


def _controller(root: Path) -> str:
    for name, file in _TELLS.items():
        if (root / file).exists():
            return name
    raise Rejected(
        "sandbox-cgroup",
        f"{root} is neither a cgroup of v2 nor one of v1 for memory, cpu or pids: name a delegated"
        " one, or leave the setting out",
    )


@dataclass(frozen=True)
class Group:
    kind: str
    paths: Mapping[str, Path]  # by controller

    def folders(self) -> list[Path]:
        return list(dict.fromkeys(self.paths.values()))

    def add(self, *pids: int) -> None:
        for path in self.folders():
            for pid in pids:
                (path / "cgroup.procs").write_text(str(pid))

    def exceeded(self) -> LimitExceeded | None:
        """Memory, if the kernel killed for it. (A refused fork is the agent's to see, and less CPU
        time is no end.)"""
        path = self.paths.get("memory")
        if path is None:
            return None
        v2 = self.kind == V2
        events = _read(path / ("memory.events" if v2 else "memory.oom_control"))
        counts = dict(line.split() for line in events.splitlines())
        if not int(counts.get("oom_kill", 0)):
            return None
        peak = _read(path / ("memory.peak" if v2 else "memory.max_usage_in_bytes"))
        return LimitExceeded("memory", int(peak or 0))

    def remove(self) -> None:
        for path in self.folders():
            with contextlib.suppress(OSError):
                path.rmdir()


def _memory_v1(limits: Limits) -> dict[str, str]:
    most = str(limits.memory_bytes)
    return {"memory.limit_in_bytes": most, "memory.memsw.limit_in_bytes": most}  # in this order


def _memory_v2(limits: Limits) -> dict[str, str]:
    return {
        "memory.max": str(limits.memory_bytes),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
    }


def _pids(limits: Limits) -> dict[str, str]:
    return {"pids.max": str(limits.processes + _OWN_PROCESSES)}


def _cpu_v1(limits: Limits) -> dict[str, str]:
    quota_us = _quota_us(limits)
    if quota_us is None:
        return {}
    return {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota_us)}


def _cpu_v2(limits: Limits) -> dict[str, str]:
    quota_us = _quota_us(limits)
    return {} if quota_us is None else {"cpu.max": f"{quota_us} {PERIOD_US}"}


def _quota_us(limits: Limits) -> int | None:
    return None if limits.cpu_millicores is None else limits.cpu_millicores * PERIOD_US // 1000


_SETTINGS = {
    (V1, "memory"): _memory_v1,
    (V2, "memory"): _memory_v2,
    (V1, "cpu"): _cpu_v1,
    (V2, "cpu"): _cpu_v2,
    (V1, "pids"): _pids,
    (V2, "pids"): _pids,
}
_ABSENT_WITHOUT_SWAP = ("memory.memsw.limit_in_bytes", "memory.swap.max")


def _write(file: Path, value: str) -> None:
    try:
        with file.open("r+") as opened:  # never made: a cgroup's files are the kernel's
            opened.write(value)
    except OSError as e:
        if not (e.errno in (errno.ENOENT, errno.EACCES) and file.name in _ABSENT_WITHOUT_SWAP):
            raise


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
