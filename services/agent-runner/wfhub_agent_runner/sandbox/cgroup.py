"""Cgroups: memory and process limits held by the kernel, where a folder was delegated to us.

`cgroup_root` is a cgroup (v2, or v1's memory hierarchy) that the runner's uid may make children
in. On v2 it has no processes of its own and has memory and pids enabled for its children.
Shape: one child a run, removed when the run is over. Units: bytes.
Raises: Rejected when the folder is not such a one; OSError when a child cannot be made.
"""

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from wfhub_common.errors import Rejected
from wfhub_common.messages import Limits

from wfhub_agent_runner.sandbox.port import LimitExceeded

_OWN_PROCESSES = 4  # bwrap twice, the starter and the forwarder


@dataclass(frozen=True)
class Cgroups:
    root: Path
    kind: str  # cgroup-v2 | cgroup-v1

    @classmethod
    def open(cls, root: Path) -> "Cgroups":
        enabled = _read(root / "cgroup.subtree_control").split()
        if {"memory", "pids"} <= set(enabled):
            found = cls(root, "cgroup-v2")
        elif (root / "memory.limit_in_bytes").exists():
            found = cls(root, "cgroup-v1")
        else:
            raise Rejected(
                "sandbox-cgroup",
                f"{root} is no cgroup with memory and pids enabled for its children: write"
                " '+memory +pids' to its cgroup.subtree_control, or leave the setting out",
            )
        if not os.access(root, os.W_OK):
            raise Rejected(
                "sandbox-cgroup", f"{root} is not delegated: uid {os.getuid()} may not write"
            )
        return found

    def create(self, limits: Limits) -> "Group":
        path = self.root / f"wfhub-{secrets.token_hex(8)}"
        path.mkdir()
        group = Group(path, self.kind)
        try:
            for name, value in _settings(self.kind, limits).items():
                (path / name).write_text(value)
        except OSError:
            group.remove()
            raise
        return group


@dataclass(frozen=True)
class Group:
    path: Path
    kind: str

    def add(self, *pids: int) -> None:
        for pid in pids:
            (self.path / "cgroup.procs").write_text(str(pid))

    def exceeded(self) -> LimitExceeded | None:
        """Memory, if the kernel killed for it. (A refused fork is the agent's to see.)"""
        v2 = self.kind == "cgroup-v2"
        events = _read(self.path / ("memory.events" if v2 else "memory.oom_control"))
        counts = dict(line.split() for line in events.splitlines())
        if not int(counts.get("oom_kill", 0)):
            return None
        peak = _read(self.path / ("memory.peak" if v2 else "memory.max_usage_in_bytes"))
        return LimitExceeded("memory", int(peak or 0))

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()


def _settings(kind: str, limits: Limits) -> dict[str, str]:
    if kind == "cgroup-v1":
        return {"memory.limit_in_bytes": str(limits.memory_bytes)}
    return {
        "memory.max": str(limits.memory_bytes),
        "memory.oom.group": "1",
        "pids.max": str(limits.processes + _OWN_PROCESSES),
    }


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
