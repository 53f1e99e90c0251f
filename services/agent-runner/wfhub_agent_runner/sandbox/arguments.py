"""What bwrap is told for one run, and its starter: pure, so that the whole policy can be read and
tested here.

Shape: `options` go through `--args` (a process list on the host shows none of them), the starter
follows on the line. Order matters to bwrap: what is mounted later lies over what came before.
Raises: Rejected for a bind or file that would cover a part of the sandbox's own.
"""

import math
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wfhub_common.errors import Rejected
from wfhub_common.messages import Limits

from wfhub_agent_runner.sandbox.layers import Layer
from wfhub_agent_runner.sandbox.port import (
    EGRESS_PORT,
    EGRESS_URL,
    FILES,
    GATEWAY_PORT,
    HOME,
    WORKSPACE,
    SandboxSpec,
)
from wfhub_agent_runner.sandbox.starter import LISTENERS, Start

UID = GID = 1000
SHM_BYTES = 64 * 1024**2
STARTER = f"{FILES}/start"
FORWARDER = f"{FILES}/forwarder.py"
FIRST = f"{FILES}/first.py"  # of a container
FIRST_PROGRAM = f"{FILES}/first"  # what it is run by
GATEWAY_SOCKET = "/run/gateway.sock"
EGRESS_SOCKET = "/run/egress.sock"
PASSWD = f"agent:x:{UID}:{GID}:agent:{HOME}:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = f"agent:x:{GID}:\nnogroup:x:65534:\n"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
NOT_PROXIED = "127.0.0.1,localhost"  # the gateway, and what the agent starts itself
_OURS = ("/proc", "/dev", "/etc", "/run", "/sys", WORKSPACE)
_FILE_HOMES = (FILES, HOME, "/tmp")
CPU_GRACE_S = 5
# They count in RLIMIT_NPROC too: the first process (with bwrap that is the starter), the starter
# and the forwarder.
_OWN_PROCESSES = 3


@dataclass(frozen=True)
class Host:
    """What does not change between runs on one machine."""

    bwrap: Path
    python: Path  # what forwarder.py runs with
    python_prefix: Path | None  # bound read-only at the same path; None: it is below /usr
    system_links: Mapping[str, str | None]  # /bin, /lib…: a link's target, None for a folder


@dataclass(frozen=True)
class Descriptors:
    """Inherited by bwrap; `files` maps a path inside to a descriptor that holds its content. `etc`
    is none, but the folder of the host's that becomes /etc (see etc)."""

    seccomp: int
    status: int
    block: int | None  # bwrap starts the command once this can be read
    report: int
    files: Mapping[str, int]
    etc: Path
    cpu_held: bool = False  # by a cgroup


def system_links() -> dict[str, str | None]:
    names = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")
    found = [Path("/", name) for name in names if Path("/", name).exists()]
    return {str(p): os.readlink(p) if p.is_symlink() else None for p in found}


def tmpfs_bytes(limits: Limits) -> int:
    """The size of /tmp and of the home: they are memory, and count as disk too."""
    return min(limits.disk_bytes, limits.memory_bytes // 2)


def options(spec: SandboxSpec, host: Host, fds: Descriptors, layer: Layer) -> list[str]:
    size = str(tmpfs_bytes(spec.limits))
    words = [
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"),
        *("--unshare-cgroup-try", "--disable-userns", "--assert-userns-disabled"),
        *("--uid", str(UID), "--gid", str(GID), "--hostname", "sandbox", "--cap-drop", "ALL"),
        # The starter is the first process. bwrap's own would be the agent's to write to, by
        # /proc/1/mem, and has no limits.
        *("--new-session", "--die-with-parent", "--as-pid-1", "--clearenv"),
        *_setenv(environment(spec)),
        *("--ro-bind", "/usr", "/usr"),
    ]
    for path, target in host.system_links.items():
        words += ["--ro-bind", path, path] if target is None else ["--symlink", target, path]
    words += [
        *("--ro-bind", str(fds.etc), "/etc"),
        *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"),
        *("--size", str(SHM_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm"),
        *("--remount-ro", "/dev"),
        *("--size", size, "--perms", "1777", "--tmpfs", "/tmp"),
        *("--size", size, "--perms", "0700", "--tmpfs", HOME),
        *("--dir", "/run"),
    ]
    for _, inside, socket in sockets(spec):
        words += ["--ro-bind", str(socket), inside]
    own = {} if host.python_prefix is None else {str(host.python_prefix): host.python_prefix}
    for inside, source in sorted({**own, **spec.binds}.items()):  # a folder before what is in it
        words += _bind(source, inside)
    words += _caches(spec, layer)
    for path, descriptor in fds.files.items():
        words += ["--perms", f"{mode(path):04o}"]
        words += ["--file", str(descriptor), path]
    if layer.work is None:
        words += ["--bind", str(layer.upper), WORKSPACE]
    else:
        for lower in (spec.lower, *spec.extra_lowers):
            words += ["--overlay-src", str(lower)]
        words += ["--overlay", str(layer.upper), str(layer.work), WORKSPACE]
    return [
        *words,
        *("--remount-ro", "/", "--chdir", spec.cwd),
        *("--seccomp", str(fds.seccomp), "--json-status-fd", str(fds.status)),
        *(() if fds.block is None else ("--block-fd", str(fds.block))),
    ]


def _caches(spec: SandboxSpec, layer: Layer) -> list[str]:
    words: list[str] = []
    for path, source in sorted(spec.caches.items()):
        checked_cache(path)
        if (over := layer.caches.get(path)) is None:
            words += ["--ro-bind", str(source), path]
        else:
            words += ["--overlay-src", str(source)]
            words += ["--overlay", str(over.upper), str(over.work), path]
    return words


def checked_cache(path: str) -> str:
    """Raises: Rejected unless it lies where a cache may."""
    if not _plain(path) or not path.startswith(f"{HOME}/"):
        raise Rejected("sandbox-cache", f"a cache belongs below {HOME}, not at {path[:200]!r}")
    return path


def mode(path: str) -> int:
    if path in (STARTER, FIRST_PROGRAM):
        # Not to be read: then the kernel lets no agent into its /proc entry, where its report and
        # its memory are.
        return 0o111
    return 0o444 if path.startswith(FILES) else 0o644


def start(spec: SandboxSpec, host: Host, fds: Descriptors) -> Start:
    """What the starter does for this run."""
    return starting(
        spec,
        (str(host.python),),
        path=spec.env.get("PATH", SYSTEM_PATH),
        report=fds.report,
        passed=(fds.seccomp, fds.status),
        cpu_held=fds.cpu_held,
        own_processes=_OWN_PROCESSES - 1,
    )


def starting(
    spec: SandboxSpec,
    python: Sequence[str],
    *,
    path: str,
    report: int,
    passed: Sequence[int],
    cpu_held: bool,
    own_processes: int = _OWN_PROCESSES,
) -> Start:
    """`python`: what the forwarder runs with. `path`: where programs are looked for."""
    ways = sockets(spec)
    listeners = zip(LISTENERS, ways, strict=False)
    words = [f"{listener}={inside}" for listener, (_, inside, _) in listeners]
    return Start(
        argv=spec.argv,
        paths=_candidates(spec.argv[0], path),
        limits=rlimits(spec, cpu_held=cpu_held, own_processes=own_processes),
        report=report,
        passed=passed,
        ports=[port for port, _, _ in ways],
        forwarder=(*python, "-I", "-S", FORWARDER, *words),
    )


def _candidates(program: str, path: str) -> tuple[str, ...]:
    """Where a program of that name may be, as execvp looks for it."""
    if "/" in program:
        return (program,)
    return tuple(os.path.join(folder, program) for folder in path.split(":"))


def sockets(spec: SandboxSpec) -> list[tuple[int, str, Path]]:
    """(port on 127.0.0.1 inside, path inside, path outside) of each way out."""
    ways = (
        (GATEWAY_PORT, GATEWAY_SOCKET, spec.gateway_socket),
        (EGRESS_PORT, EGRESS_SOCKET, spec.egress_socket),
    )
    return [(port, inside, socket) for port, inside, socket in ways if socket is not None]


def checked_file(path: str) -> str:
    """Raises: Rejected unless `path` lies where a spec may put files."""
    if (
        _plain(path)
        and any(path.startswith(f"{home}/") for home in _FILE_HOMES)
        and path not in (STARTER, FORWARDER, FIRST, FIRST_PROGRAM)
    ):
        return path
    homes = ", ".join(_FILE_HOMES)
    raise Rejected("sandbox-file", f"cannot put a file at {path[:200]!r}: choose one below {homes}")


def _bind(source: Path, inside: str) -> Sequence[str]:
    checked_bind(inside)
    if PurePosixPath(inside).is_relative_to("/usr") and str(source) == inside:
        return ()  # /usr is there already
    return ("--ro-bind", str(source), inside)


def checked_bind(inside: str) -> str:
    """Raises: Rejected unless nothing of the sandbox's own would be covered there."""
    covers = [
        p for p in (*_OURS, "/usr", "/tmp", HOME) if p == inside or p.startswith(f"{inside}/")
    ]
    within = [p for p in _OURS if inside.startswith(f"{p}/")]
    if inside == "/" or covers or within or not _plain(inside):
        raise Rejected(
            "sandbox-bind",
            f"cannot bind {inside[:200]!r} into the sandbox: it would cover a part of the"
            " sandbox's own; choose an absolute folder outside of "
            + ", ".join((*_OURS, "/usr", "/tmp")),
        )
    return inside


def _plain(path: str) -> bool:
    return path.startswith("/") and os.path.normpath(path) == path and not path.startswith("//")


def environment(spec: SandboxSpec) -> dict[str, str]:
    values = {"PATH": SYSTEM_PATH, "HOME": HOME, "LANG": "C.UTF-8"}
    values |= {"USER": "agent", "LOGNAME": "agent", "TMPDIR": "/tmp"}
    if spec.egress_socket is not None:  # programs disagree about the case
        for name in ("http_proxy", "https_proxy"):
            values |= {name: EGRESS_URL, name.upper(): EGRESS_URL}
        values |= {"no_proxy": NOT_PROXIED, "NO_PROXY": NOT_PROXIED}
    values |= spec.env
    return values


def _setenv(values: Mapping[str, str]) -> list[str]:
    return [word for name, value in values.items() for word in ("--setenv", name, value)]


def cpu_time_s(spec: SandboxSpec) -> float | None:
    """What a run may use where nothing shares CPUs out: its cores, for as long as it may take."""
    millicores = spec.limits.cpu_millicores
    return None if millicores is None else millicores / 1000 * spec.wall_s


def rlimits(
    spec: SandboxSpec, *, cpu_held: bool, own_processes: int = _OWN_PROCESSES
) -> dict[str, int]:
    """Never more than this process may give."""
    limits = spec.limits
    wanted = {
        "CORE": 0,
        "FSIZE": limits.file_bytes,
        "NOFILE": limits.open_files,
        "NPROC": limits.processes + own_processes,
        # Per process, and only a backstop for the memory watchdog: runtimes reserve a lot more
        # than they use.
        "DATA": 2 * limits.memory_bytes,
    }
    cpu_s = cpu_time_s(spec)
    if (
        cpu_s is not None and not cpu_held
    ):  # per process: the watchdog adds them up, and comes first
        wanted["CPU"] = math.ceil(cpu_s) + CPU_GRACE_S
    return {name: _within(name, number) for name, number in wanted.items()}


def _within(name: str, number: int) -> int:
    _, most = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))
    return number if most == resource.RLIM_INFINITY else min(number, most)
