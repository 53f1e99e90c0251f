"""A real sandbox for tests, used inside `unprivileged.run`: runs Python snippets in and outside.

`Lab(home)` makes a lower tree with one file. `inside(code)` runs the snippet in the sandbox,
`outside(code)` the same snippet as the same uid without one: the positive control. Which backend it
is, the tests' fixture says (sandbox_backends), before it forks.
"""

import asyncio
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_cluster import OnCluster, RealCluster
from wfhub_agent_runner.sandbox import runtimes
from wfhub_agent_runner.sandbox.bwrap import BwrapSandbox, own_python
from wfhub_agent_runner.sandbox.container import ContainerSandbox
from wfhub_agent_runner.sandbox.images import Image
from wfhub_agent_runner.sandbox.port import SandboxResult, SandboxSpec
from wfhub_common.messages import Limits

MIB = 1024 * 1024
image_in_use: Image | None = None  # None: bwrap
python_in_use: Path | None = None  # for a container, gathered once
runtime_in_use = runtimes.DEFAULT
cluster_in_use: RealCluster | None = None


@dataclass(frozen=True)
class Ran:
    result: SandboxResult
    output: str

    @property
    def outcome(self) -> Any:
        return self.result.outcome


class Lab:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.lower = home / "lower"
        self.lower.mkdir(exist_ok=True)
        (self.lower / "old.txt").write_text("old\n")
        self.sandbox = sandbox(home / "scratch")

    def layers(self, name: str = "layer") -> dict[str, Path]:
        folders = {kind: self.home / name / kind for kind in ("upper", "work")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        return folders

    async def run(
        self,
        *argv: str,
        cancel: asyncio.Event | None = None,
        started: asyncio.Event | None = None,
        limits: Limits | None = None,
        wall_s: float = 30,
        **fields: Any,
    ) -> Ran:
        """`started` is set at the first output."""
        output: list[bytes] = []

        async def keep(chunk: bytes) -> None:
            output.append(chunk)
            if started is not None:
                started.set()

        spec = SandboxSpec(
            argv=argv, lower=self.lower, limits=limits or Limits(), wall_s=wall_s, **fields
        )
        result = await self.sandbox.run(spec, on_output=keep, cancel=cancel or asyncio.Event())
        return Ran(result, b"".join(output).decode(errors="replace"))

    async def shell(self, script: str, **fields: Any) -> Ran:
        return await self.run("/bin/sh", "-c", script, **fields)

    async def inside(self, code: str, *arguments: object, **fields: Any) -> Ran:
        words = _python(self.sandbox.interpreter, code, arguments)
        return await self.run(*words, **fields)

    def outside(self, code: str, *arguments: object) -> str:
        ran = subprocess.run(
            _python((str(own_python()),), code, arguments),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return ran.stdout + ran.stderr


def sandbox(
    scratch: Path, cgroups: tuple[Path, ...] = ()
) -> BwrapSandbox | ContainerSandbox | OnCluster:
    if cluster_in_use is not None:
        return cluster_in_use.sandbox(scratch)
    image = image_in_use
    if image is None:
        return BwrapSandbox(scratch=scratch, cgroups=cgroups)
    kept = scratch.with_name(f"{scratch.name}-python")
    if python_in_use is not None and not kept.exists():
        shutil.copytree(python_in_use, kept)
    return ContainerSandbox(
        scratch=scratch,
        images={image.name: image},
        default=image.name,
        runtime=runtime_in_use,
        cgroups=cgroups,
    )


def _python(words: tuple[str, ...], code: str, arguments: tuple[object, ...]) -> list[str]:
    return [*words, "-I", "-S", "-c", code, *map(str, arguments)]


def processes_with(token: str) -> list[int]:
    """Processes of this machine whose command line holds `token`."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if token.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
    return found
