"""One run as an OCI runtime is told of it: pure, so that the whole policy can be read and tested.

Shape: `plan` is what stage.py does before the runtime is there (everything that is mounted but
/proc and /dev); `config` is the bundle's config.json (OCI runtime 1.0.2).
The seccomp program is the very one that bwrap gets, by crun's annotation for it.
Raises: Rejected for a bind, cache or file that would cover a part of the sandbox's own.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wfhub_agent_runner.sandbox import arguments
from wfhub_agent_runner.sandbox.arguments import (
    FIRST,
    FIRST_PROGRAM,
    GID,
    SHM_BYTES,
    STARTER,
    UID,
)
from wfhub_agent_runner.sandbox.first import NOT_TOLD, TOLD
from wfhub_agent_runner.sandbox.images import Image
from wfhub_agent_runner.sandbox.interpreter import Interpreter
from wfhub_agent_runner.sandbox.layers import Layer
from wfhub_agent_runner.sandbox.port import FILES, HOME, WORKSPACE, SandboxSpec
from wfhub_agent_runner.sandbox.starter import Start

RUN = "/run"
PYTHON = f"{FILES}/python"
_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_NAMESPACES = ("user", "pid", "ipc", "uts", "network", "mount", "cgroup")
_MASKED = ("kcore", "keys", "timer_list", "sched_debug", "scsi", "latency_stats", "acpi")
_READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "fs", "asound")


@dataclass(frozen=True)
class Place:
    """Folders of one run, all the runner's: `root` is where the container's is put together,
    `run` becomes /run, `files` holds what is copied, by number."""

    folder: Path
    root: Path
    root_upper: Path
    root_work: Path
    run: Path
    files: Path
    bundle: Path

    @classmethod
    def below(cls, folder: Path) -> "Place":
        names = ("root", "root_upper", "root_work", "run", "files", "bundle")
        return cls(folder, *(folder / name for name in names))

    def make(self) -> None:
        for path in (self.root, self.root_upper, self.root_work, self.files, self.bundle):
            path.mkdir()
        (self.run / "wfhub" / "python").mkdir(parents=True)
        for path in (self.run, self.run / "wfhub", self.run / "wfhub" / "python"):
            path.chmod(0o755)


@dataclass(frozen=True)
class Own:
    """What does not change between the runs of one runner."""

    interpreter: Interpreter
    binds: Mapping[str, Path]  # of every run, read-only


@dataclass(frozen=True)
class Passed:
    """Descriptors that the container's first process gets (see first)."""

    status: int
    report: int
    go: int
    is_told: bool = False


def start(spec: SandboxSpec, image: Image, own: Own, fds: Passed, *, cpu_held: bool) -> Start:
    """What the starter does, which the first process starts."""
    return arguments.starting(
        spec,
        own.interpreter.words,
        path=environment(spec, image)["PATH"],
        report=fds.report,
        passed=(),
        cpu_held=cpu_held,
    )


def plan(spec: SandboxSpec, image: Image, own: Own, layer: Layer, place: Place) -> dict[str, Any]:
    """Without `argv`. The spec's files below HOME and /tmp are in `place.files`, by their order."""
    tmpfs = arguments.tmpfs_bytes(spec.limits)
    steps: list[list[Any]] = [
        ["tmpfs", "/tmp", f"size={tmpfs},mode=1777"],
        ["tmpfs", HOME, f"size={tmpfs},mode=700"],
        _bind(place.run, RUN),
    ]
    steps += [_bind(socket, inside) for _, inside, socket in arguments.sockets(spec)]
    steps += [_bind(source, inside) for inside, source in own.interpreter.binds.items()]
    for inside, source in sorted({**own.binds, **spec.binds}.items()):  # a folder before its own
        steps.append(_bind(source, arguments.checked_bind(inside)))
    for inside, source in sorted(spec.caches.items()):
        over = layer.caches[arguments.checked_cache(inside)]
        steps.append(["overlay", inside, [str(source)], str(over.upper), str(over.work)])
    for number, inside in enumerate(copied(spec)):
        steps.append(["file", str(place.files / str(number)), inside, 0o644])
    assert layer.work is not None, "this backend has overlays only"
    lowers = [str(lower) for lower in (spec.lower, *spec.extra_lowers)]
    steps.append(["overlay", WORKSPACE, lowers, str(layer.upper), str(layer.work)])
    root = (image.root, place.root_upper, place.root_work, place.root)
    return {"root": [str(path) for path in root], "steps": steps}


def copied(spec: SandboxSpec) -> list[str]:
    """The spec's files that are the agent's own; the others lie in `place.run`."""
    return [path for path in spec.files if not arguments.checked_file(path).startswith(FILES)]


def _bind(source: Path, inside: str) -> list[str]:
    return ["bind", str(source), inside]


def config(
    spec: SandboxSpec, image: Image, own: Own, place: Place, *, seccomp: bytes, fds: Passed
) -> dict[str, Any]:
    told = TOLD if fds.is_told else NOT_TOLD
    given = [str(fds.status), str(fds.go), told, str(fds.report), spec.cwd]
    interpreter = [FIRST_PROGRAM, *own.interpreter.words[1:]]
    words = [*interpreter, "-I", "-S", FIRST, *given, STARTER]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": UID, "gid": GID},
            "args": words,
            "env": [f"{name}={value}" for name, value in environment(spec, image).items()],
            "cwd": "/",  # first.py goes to the spec's: the runtime would make it
            "capabilities": {name: [] for name in _CAPABILITY_SETS},
            "noNewPrivileges": True,
        },
        "root": {"path": str(place.root), "readonly": True},
        "hostname": "sandbox",
        "mounts": [
            _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
            _mount("/dev", "tmpfs", "nosuid", "noexec", "mode=755", "size=64k", "ro"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
            _mount("/dev/shm", "tmpfs", "nosuid", "nodev", "mode=1777", f"size={SHM_BYTES}"),
        ],
        "linux": {
            # 0 is this uid already: of the stage's user namespace. It is nobody's in the container.
            "uidMappings": [{"containerID": UID, "hostID": 0, "size": 1}],
            "gidMappings": [{"containerID": GID, "hostID": 0, "size": 1}],
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "maskedPaths": [f"/proc/{name}" for name in _MASKED],
            "readonlyPaths": [f"/proc/{name}" for name in _READ_ONLY],
        },
        "annotations": {"run.oci.seccomp_bpf_data": base64.b64encode(seccomp).decode()},
    }


def for_gvisor(config: dict[str, Any], place: Place) -> dict[str, Any]:
    """The same for runsc, which wants its uid 0 mapped, takes no seccomp program, sees one file
    system per mount that it is told of, hides nothing of its own /proc, and lets nobody write to a
    device on a read-only file system."""
    linux = config["linux"]
    spaces = [each for each in linux["namespaces"] if each["type"] != "user"]
    shown = [
        {
            "destination": at,
            "type": "bind",
            "source": f"{place.root}{at}",
            "options": ["rbind", how],
        }
        for at, how in (("/tmp", "rw"), (HOME, "rw"), (RUN, "ro"), (WORKSPACE, "rw"))
    ]
    hidden = {
        "destination": "/proc/sysrq-trigger",
        "type": "bind",
        "source": os.devnull,
        "options": ["ro"],
    }
    return {
        **config,
        "process": {**config["process"], "user": {"uid": 0, "gid": 0}},
        "mounts": [*map(_writable, config["mounts"]), *shown, hidden],
        "linux": {"namespaces": spaces},
        "annotations": {},
    }


def _writable(mount: dict[str, Any]) -> dict[str, Any]:
    return {**mount, "options": [word for word in mount["options"] if word != "ro"]}


def _mount(at: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": at, "type": kind, "source": kind, "options": list(options)}


def environment(spec: SandboxSpec, image: Image) -> dict[str, str]:
    """The image's, then the sandbox's own, then the spec's. Of PATH the spec's additions come
    first, then what the image has."""
    values = {**image.env, **arguments.environment(spec)}
    system = arguments.SYSTEM_PATH.split(":")
    asked = spec.env.get("PATH", "").split(":")
    added = [part for part in asked if part and part not in system]
    images = image.env.get("PATH", "").split(":")
    values["PATH"] = _joined([*added, *images, *system])
    return values


def _joined(parts: Sequence[str]) -> str:
    return ":".join(dict.fromkeys(part for part in parts if part))
