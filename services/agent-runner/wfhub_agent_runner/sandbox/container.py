"""The container adapter of the sandbox port: an image's root, run by an OCI runtime, without root.

Each run is put together by stage.py in a user namespace of the runner's own uid, and started by the
runtime from a fixed bundle: no engine, no daemon, no socket of either is there while tasks run. The
container is left only by its end: first.py is its first process, which ends when the runner does.
Must be used from one thread that outlives it, and never as root.
Raises: Rejected from the constructor when this machine cannot confine so.
"""

import asyncio
import contextlib
import json
import marshal
import os
import platform
import secrets
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from wfhub_common.errors import Rejected

from wfhub_agent_runner.removal import remove_tree
from wfhub_agent_runner.sandbox import (
    arguments,
    bundle,
    first,
    forwarder,
    layers,
    runtimes,
    seccomp,
    stage,
    starter,
)
from wfhub_agent_runner.sandbox.bwrap import (
    Opened,
    compiled,
    limits_held,
    own_python,
    prefix_of,
)
from wfhub_agent_runner.sandbox.cgroup import Cgroups, Group
from wfhub_agent_runner.sandbox.images import Image
from wfhub_agent_runner.sandbox.interpreter import gathered
from wfhub_agent_runner.sandbox.layers import LayerKind
from wfhub_agent_runner.sandbox.overlays import Held, Overlays
from wfhub_agent_runner.sandbox.port import (
    FILES,
    CannotStart,
    OnOutput,
    SandboxResult,
    SandboxSpec,
)
from wfhub_agent_runner.sandbox.supervision import Started, supervise


class ContainerSandbox:
    """`images` by their names, of which `default` is the one without a name. `runtime`: its
    name or path (see runtimes). `scratch` and `cgroups`: as BwrapSandbox's. Raises: Rejected."""

    def __init__(
        self,
        *,
        scratch: Path,
        images: Mapping[str, Image],
        default: str,
        runtime: str = runtimes.DEFAULT,
        cgroups: Sequence[Path] = (),
    ) -> None:
        if 0 in (*os.getresuid(), *os.getresgid()):
            raise Rejected(
                "sandbox-as-root",
                "the runner has real uid or gid 0, which lets a sandbox change the host: start it"
                " as a service uid, or as root through wfhub_common.privileges",
            )
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.scratch = scratch
        self._images, self._default = dict(images), default
        self._image("")
        self._runtime = runtimes.find(runtime)
        kept = scratch.with_name(f"{scratch.name}-python")
        python = own_python()
        prefix = prefix_of(python)
        self._own = bundle.Own(
            interpreter=gathered(python, kept, bundle.PYTHON),
            binds={} if prefix is None else {str(prefix): prefix},
        )
        self._stage = [str(python), "-I", "-S", str(_kept(kept / "stage.pyc", stage))]
        if layers.probe_by(self._probe_command, scratch) is not LayerKind.OVERLAY:
            raise Rejected(
                "sandbox-layers",
                f"{scratch} cannot hold an overlay's upper layer, which a container needs: put"
                " the runner's home on ext4, xfs, btrfs or tmpfs, or use SANDBOX_BACKEND=bwrap",
            )
        self.overlays = Overlays()
        self._filters = seccomp.Filters.of(platform.machine())
        own = {arguments.FORWARDER: forwarder, arguments.FIRST: first}
        self._programs = {
            path: compiled(Path(str(module.__file__))) for path, module in own.items()
        }
        self._programs[arguments.FIRST_PROGRAM] = self._own.interpreter.program.read_bytes()
        starter.check(platform.machine())
        self._cgroups = Cgroups.open(cgroups) if cgroups else None

    @property
    def interpreter(self) -> tuple[str, ...]:
        return self._own.interpreter.words

    def describe(self, image: str = "") -> dict[str, Any]:
        chosen = self._image(image)
        return {
            "backend": "container",
            "version": self._runtime.version,
            "image": chosen.name,
            "image_digest": chosen.digest,
            "uid": os.getuid(),
            "layer": LayerKind.OVERLAY.value,
            "limits": limits_held(self._cgroups),
            **self._filters.described(),
        }

    async def run(
        self, spec: SandboxSpec, *, on_output: OnOutput, cancel: asyncio.Event
    ) -> SandboxResult:
        began = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            try:
                image = self._image(spec.image)
                await self.overlays.ended(spec)
                layer = await stack.enter_async_context(
                    layers.prepared(LayerKind.OVERLAY, spec, scratch=self.scratch)
                )
                folder = Path(tempfile.mkdtemp(prefix="container-", dir=self.scratch))
                stack.push_async_callback(asyncio.to_thread, remove_tree, folder)
                group = (
                    self._cgroups.create(self._runtime.held(spec.limits)) if self._cgroups else None
                )
                if group is not None:
                    stack.callback(group.remove)
                place = bundle.Place.below(folder)
                started = self._start(spec, image, layer, place, group, Opened(stack))
            except (Rejected, OSError) as e:
                duration_ms = int((time.monotonic() - began) * 1000)
                return SandboxResult(CannotStart(str(e)), duration_ms, 0, False)
            return await supervise(started, spec, layer, on_output, cancel, began)

    def _start(
        self,
        spec: SandboxSpec,
        image: Image,
        layer: layers.Layer,
        place: bundle.Place,
        group: Group | None,
        opened: Opened,
    ) -> Started:
        """Raises: OSError, Rejected. Once it returns, the process is the supervisor's."""
        place.make()
        output, output_writes = opened.pipe()
        status, status_writes = opened.sockets()
        report, report_writes = opened.sockets()
        go, goes = opened.sockets()
        fds = bundle.Passed(status_writes, report_writes, go, self._runtime.is_gvisor)
        cpu_held = group is not None and "cpu" in group.paths
        start = bundle.start(spec, image, self._own, fds, cpu_held=cpu_held)
        refused = self._filters.chosen(debuggers=spec.debuggers)
        if self._runtime.is_gvisor:  # it takes none, and has system calls of its own to refuse
            start = replace(start, seccomp=refused)
        self._write_files(spec, place, starter.made(start, platform.machine()))
        made = bundle.config(spec, image, self._own, place, seccomp=refused, fds=fds)
        if self._runtime.is_gvisor:
            made = bundle.for_gvisor(made, place)
        (place.bundle / "config.json").write_text(json.dumps(made))
        folder = place.folder
        planned = folder / "plan"
        passed = [status_writes, report_writes, go]
        plan = bundle.plan(spec, image, self._own, layer, place)
        plan["argv"] = self._runtime.words(folder / "state", place.bundle, passed)
        plan["pids"] = self._runtime.is_gvisor
        planned.write_bytes(marshal.dumps(plan))
        process = subprocess.Popen(  # by this thread, whose end would be the sandbox's
            [*self._stage, str(planned)],
            stdin=subprocess.DEVNULL,
            stdout=output_writes,
            stderr=output_writes,
            env={},
            cwd="/",
            pass_fds=passed,
        )
        opened.close(*passed, output_writes)
        root = str(place.root) if self._runtime.is_gvisor else ""
        mounts = {f"{root}{inside}": upper for inside, upper in layer.mounts().items()}
        overlays = Held(self.overlays, {**mounts, root or "/": place.root_upper})
        return Started(
            process, output, status, report, goes, group, overlays, parent=True, root=root
        )

    def _write_files(self, spec: SandboxSpec, place: bundle.Place, program: bytes) -> None:
        for number, path in enumerate(bundle.copied(spec)):
            (place.files / str(number)).write_bytes(spec.files[path])
        below_run = {path: data for path, data in spec.files.items() if path.startswith(FILES)}
        below_run |= {**self._programs, arguments.STARTER: program}
        for path, data in below_run.items():
            file = place.run / Path(path).relative_to(bundle.RUN)
            for parent in reversed(file.relative_to(place.run).parents[:-1]):
                (place.run / parent).mkdir(exist_ok=True)
                (place.run / parent).chmod(0o755)
            file.write_bytes(data)
            # gVisor's kernel has to read what it starts, and closes /proc/PID/mem by itself.
            started = path in (arguments.STARTER, arguments.FIRST_PROGRAM)
            file.chmod(0o555 if started and self._runtime.is_gvisor else arguments.mode(path))
        for _, path, _ in arguments.sockets(spec):
            (place.run / Path(path).relative_to(bundle.RUN)).touch()

    def _image(self, name: str) -> Image:
        try:
            return self._images[name or self._default]
        except KeyError:
            raise Rejected(
                "image-unknown",
                f"this runner has no image {(name or self._default)[:200]!r}: its operator names"
                " them in CONTAINER_IMAGE and CONTAINER_IMAGES",
            ) from None

    def _probe_command(self, folder: Path) -> list[str]:
        names = ("lower", "upper", "work", "mount")
        script = f'cd "$0" && {layers.PROBE_SCRIPT}'
        plan = {
            "root": [str(folder / name) for name in names],
            "steps": [],
            "argv": ["/bin/sh", "-c", script, str(folder / "mount")],
        }
        (folder / "plan").write_bytes(marshal.dumps(plan))
        return [*self._stage, str(folder / "plan")]


def _kept(file: Path, module: ModuleType) -> Path:
    """The module, compiled, so that a start need not do it."""
    fresh = file.with_name(f"{file.name}-{secrets.token_hex(4)}")
    fresh.write_bytes(compiled(Path(str(module.__file__))))
    return fresh.rename(file)
