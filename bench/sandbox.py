"""How long a sandbox takes to start and to be gone again, beside a plain process, docker and runsc.

`python bench/sandbox.py [--runs N]`; a table for people, then one JSON object as the last line.
Each runs /bin/true with everything on: bwrap with seccomp, limits, overlay and its supervisor, from
`run` to its return; the same without a writable layer of ours for the peers. As root it measures
ours as the runner's uid. docker: an answering daemon, or one of our own for the bench where
`dockerd` is installed and we are root; a peer that cannot run is null, with the reason.
Units: milliseconds, wall clock, one after the other.
"""

import argparse
import asyncio
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from wfhub_agent_runner.sandbox import delegation
from wfhub_agent_runner.sandbox.bwrap import BwrapSandbox
from wfhub_agent_runner.sandbox.container import ContainerSandbox
from wfhub_agent_runner.sandbox.images import Image, make_fit, unpack
from wfhub_agent_runner.sandbox.port import Exited, Sandbox, SandboxSpec
from wfhub_common import privileges
from wfhub_common.errors import Rejected
from wfhub_common.messages import Limits

TOGETHER = 20
PEER_RUNS = 15
DOCKERD_UP_S_MAX = 40
COMMAND_S_MAX = 60
IMAGE = "wfhub-bench-true"
Figures = dict[str, Any]
Measure = Callable[[Path, int, Sequence[Path]], Awaitable[Figures]]


class Unavailable(Exception):
    """A peer cannot run here; the message says why."""


def figures(times_ms: list[float]) -> Figures:
    ordered = sorted(times_ms)
    return {
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 2),
        "runs": len(ordered),
    }


async def ours(home: Path, runs: int, cgroups: Sequence[Path]) -> Figures:
    sandbox = BwrapSandbox(scratch=home / "scratch")
    held = BwrapSandbox(scratch=home / "held", cgroups=cgroups)
    bwrap = str(sandbox._host.bwrap)
    plain = ("--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/")
    return {
        **await started("bwrap", sandbox, held if cgroups else None, home, runs),
        "bwrap alone, no seccomp, no supervisor": timed([bwrap, *plain, "--", "/bin/true"], runs),
        "process": timed(["/bin/true"], runs),
        "backend": held.describe(),
    }


async def containers(home: Path, runs: int, cgroups: Sequence[Path]) -> Figures:
    """The container backend, on an image with /bin/true alone. Raises: Unavailable."""
    root = home / "root"
    root.mkdir()
    with image(home).open("rb") as archive:
        unpack(archive, root)
    make_fit(root)
    about: dict[str, Any] = {"images": {"true": Image("true", "", root, {})}, "default": "true"}
    try:
        sandbox = ContainerSandbox(scratch=home / "scratch", **about)
        held = ContainerSandbox(scratch=home / "held", cgroups=cgroups, **about)
    except Rejected as e:
        raise Unavailable(e.message) from e
    return await started("container", sandbox, held if cgroups else None, home, runs)


async def started(
    name: str, sandbox: Sandbox, held: Sandbox | None, home: Path, runs: int
) -> Figures:
    """`held`: the same within cgroups, where there are any."""
    lower = home / "lower"
    lower.mkdir()
    spec = SandboxSpec(argv=("/bin/true",), lower=lower, limits=Limits(), wall_s=30)

    async def ignore(_: bytes) -> None:
        pass

    async def once(spec: SandboxSpec = spec, sandbox: Sandbox = sandbox) -> float:
        began = time.perf_counter()
        ran = await sandbox.run(spec, on_output=ignore, cancel=asyncio.Event())
        assert ran.outcome == Exited(0), ran
        return (time.perf_counter() - began) * 1000

    await once()
    alone = figures([await once() for _ in range(runs)])
    with socket.socket(socket.AF_UNIX) as gateway:
        gateway.bind(str(home / "gateway.sock"))
        gateway.listen()
        with_gateway = replace(spec, gateway_socket=home / "gateway.sock")
        forwarded = figures([await once(with_gateway) for _ in range(runs)])
    bounded = replace(spec, limits=Limits(cpu_millicores=2000))
    in_cgroups = figures([await once(bounded, held) for _ in range(runs)]) if held else None
    began = time.perf_counter()
    await asyncio.gather(*(once() for _ in range(TOGETHER)))
    together_ms = (time.perf_counter() - began) * 1000
    return {
        name: alone,
        f"{name}, with a forwarder to the gateway": forwarded,
        f"{name}, in cgroups of its own": in_cgroups or {"p50_ms": None},
        f"{name}, {TOGETHER} at once": {"total_ms": round(together_ms, 1)},
    }


def timed(argv: list[str], runs: int, env: dict[str, str] | None = None) -> Figures:
    """Raises: Unavailable when it does not run."""

    def once() -> float:
        began = time.perf_counter()
        done = subprocess.run(argv, capture_output=True, env=env, timeout=COMMAND_S_MAX)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise Unavailable(f"{argv[0]}: {said[-1] if said else done.returncode}"[:300])
        return (time.perf_counter() - began) * 1000

    try:
        once()
        return figures([once() for _ in range(runs)])
    except (OSError, subprocess.TimeoutExpired) as e:
        raise Unavailable(f"{argv[0]}: {e}") from e


# --- docker and runsc


@contextmanager
def docker_host(folder: Path) -> Iterator[str]:
    """The address of a daemon. Raises: Unavailable."""
    if shutil.which("docker") is None:
        raise Unavailable("no docker client is installed")
    if subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        yield os.environ.get("DOCKER_HOST", "")
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise Unavailable("no docker daemon answers; install docker.io and run the bench as root")
    address = f"unix://{folder}/docker.sock"
    with (folder / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                *("dockerd", "--host", address, "--data-root", folder / "data"),
                *("--exec-root", folder / "exec", "--pidfile", folder / "pid"),
                *("--bridge", "none", "--iptables=false", "--ip-masq=false"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + DOCKERD_UP_S_MAX
        while not _answers(address):
            if daemon.poll() is not None or time.monotonic() > deadline:
                lines = (folder / "dockerd.log").read_text(errors="replace").strip().splitlines()
                raise Unavailable(f"dockerd does not run here: {lines[-1] if lines else ''}"[:300])
            time.sleep(0.2)
        yield address
    finally:
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _answers(address: str) -> bool:
    asked = subprocess.run(["docker", "--host", address, "info"], capture_output=True)
    return asked.returncode == 0


def image(folder: Path) -> Path:
    """A root with /bin/true and the libraries it names: no registry is needed."""
    archive = folder / "true.tar"
    listed = subprocess.run(["ldd", "/bin/true"], capture_output=True, text=True).stdout
    libraries = [word for word in listed.split() if word.startswith("/")]
    with tarfile.open(archive, "w") as tar:
        for path in ("/bin/true", *libraries):
            tar.add(os.path.realpath(path), arcname=path.lstrip("/"))
    return archive


def docker(folder: Path, runs: int) -> Figures:
    with docker_host(folder) as address:
        client = ["docker", *(["--host", address] if address else [])]
        made = subprocess.run([*client, "import", image(folder), IMAGE], capture_output=True)
        if made.returncode:
            raise Unavailable(f"docker import: {made.stderr.decode(errors='replace')[:200]}")
        try:
            return timed([*client, "run", "--rm", "--network", "none", IMAGE, "/bin/true"], runs)
        finally:
            subprocess.run([*client, "image", "rm", "-f", IMAGE], capture_output=True)


def runsc(_: Path, runs: int) -> Figures:
    if shutil.which("runsc") is None:
        raise Unavailable("runsc is not installed")
    return timed(["runsc", "--network=none", "do", "/bin/true"], runs)


PEERS: dict[str, Callable[[Path, int], Figures]] = {
    "docker run --network none": docker,
    "runsc do": runsc,
}


def peers() -> tuple[Figures, dict[str, str]]:
    found: Figures = {}
    missing: dict[str, str] = {}
    for name, measure in PEERS.items():
        print(f"{name} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(
            prefix="wfhub-bench-", ignore_cleanup_errors=True
        ) as folder:
            try:
                found[name] = measure(Path(folder), PEER_RUNS)
            except Unavailable as e:
                missing[name] = str(e)
    return found, missing


def as_runner(measure: Measure, runs: int) -> Figures:
    """`measure` in a child at the runner's uid; the folder's owner stays behind to remove it."""
    with tempfile.TemporaryDirectory(prefix="wfhub-bench-") as folder:
        home = Path(folder)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            cgroups: Sequence[Path] = ()
            if os.geteuid() == 0:
                made = delegation.delegate("bench", privileges.SERVICE_UIDS["runner"])
                cgroups = made.folders
                uid = privileges.SERVICE_UIDS["runner"]
                os.chown(home, uid, uid)
                code = privileges.code_paths()
                privileges.drop(uid, keep_visible=code, keep_writable=(home,))
            with open(writing, "w") as pipe:
                try:
                    json.dump(asyncio.run(measure(home, runs, cgroups)), pipe)
                except Unavailable as e:
                    json.dump({"unavailable": str(e)}, pipe)
            os._exit(0)
        os.close(writing)
        with open(reading) as pipe:
            text = pipe.read()
        _, status = os.waitpid(pid, 0)
        if status:
            sys.exit(os.waitstatus_to_exitcode(status))
        found = dict(json.loads(text))
        if "unavailable" in found:
            raise Unavailable(found["unavailable"])
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    told = parser.parse_args()
    load = os.getloadavg()[0]
    began = time.monotonic()
    found = as_runner(ours, told.runs)
    backend = found.pop("backend")
    others, missing = peers()
    try:
        found |= as_runner(containers, told.runs)
    except Unavailable as e:
        missing["container"] = str(e)
    results = {**found, **others}
    for name, result in results.items():
        print(f"{name:42}" + "".join(f"{key} {value:<12}" for key, value in result.items()))
    for name, why in missing.items():
        print(f"{name:42}{why}")
    bwrap = found["bwrap"]["p50_ms"]
    by_docker = others.get("docker run --network none", {}).get("p50_ms")
    by_runsc = others.get("runsc do", {}).get("p50_ms")
    line = {
        "bench": "sandbox",
        "bwrap_p50_ms": bwrap,
        "bwrap_p99_ms": found["bwrap"]["p99_ms"],
        "container_p50_ms": found.get("container", {}).get("p50_ms"),
        "container_p99_ms": found.get("container", {}).get("p99_ms"),
        "docker_ratio": round(by_docker / bwrap, 1) if by_docker else None,
        "runsc_ratio": round(by_runsc / bwrap, 1) if by_runsc else None,
        "runs": told.runs,
        "peer_runs": PEER_RUNS,
        "unavailable": missing,
        "backend": backend,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "seconds": round(time.monotonic() - began, 1),
        "results": results,
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
