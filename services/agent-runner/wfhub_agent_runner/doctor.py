"""Which sandbox backends work on this machine, and why others do not.

`python -m wfhub_agent_runner.doctor --uid N` prints one JSON object:
{"backends": [{"name", "works", "why", "do", "facts"}], "shares": [{"at", "type", "device",
"layers", "dangers"}], "proof_store": {"at", "why"} or null, "ready"}. As root it becomes `uid`
first, as the runner would; it runs the escape probes through the real backend. With a runner's
PROOFS_URL and SERVICE_TOKEN it asks there whether that is taken. Exit code 0 when a runner could
work here.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from wfhub_common import log, privileges, service_token, shares
from wfhub_common.errors import Rejected
from wfhub_common.settings import Settings
from wfhub_common.shares import Share as MountedShare

from wfhub_agent_runner.sandbox import layers, runtimes
from wfhub_agent_runner.sandbox.bwrap import BwrapSandbox, find_bwrap
from wfhub_agent_runner.sandbox.container import ContainerSandbox
from wfhub_agent_runner.sandbox.images import ENGINE_DEFAULT, Image, ImageStore, make_fit
from wfhub_agent_runner.sandbox.layers import LayerKind
from wfhub_agent_runner.sandbox.port import Sandbox
from wfhub_agent_runner.sandbox.probes import probe

_USER_NAMESPACES = (
    # (file, what forbids, what to do)
    (
        Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        "1",
        "AppArmor keeps ordinary users from user namespaces: load a profile for bwrap, or"
        " sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    (
        Path("/proc/sys/kernel/unprivileged_userns_clone"),
        "0",
        "sysctl kernel.unprivileged_userns_clone=1",
    ),
    (Path("/proc/sys/user/max_user_namespaces"), "0", "sysctl user.max_user_namespaces=10000"),
)
RUNSC = "runsc"  # the container backend again, with gVisor
_GVISOR_INSTALL = (
    "use bwrap, or the container backend with crun; for gVisor install Debian 13's runsc and set"
    " CONTAINER_RUNTIME=runsc"
)
_GVISOR_DIFFERS = (
    "CONTAINER_RUNTIME=runsc chooses it. The agent is uid 0 of gVisor's kernel there, which some"
    " agents refuse"
)
_NOT_INSTALLED = {"image-no-engine", "image-engine-docker", "sandbox-no-runtime"}

_COPIES = (
    "no overlay can be made on the file system of the temporary folder (TMPDIR): with RUNNER_HOME"
    " on such a one each run copies the repository; put it on ext4, xfs, btrfs or tmpfs"
)


@dataclass(frozen=True)
class Backend:
    """`why` is empty where it works, and `do` where nothing could be better."""

    name: str
    works: bool
    why: str = ""
    do: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Share:
    """A network file system that is mounted. `layers`: what it can be to an overlay, `lower` or
    `upper`; and for a folder that is neither, the copy that would be made instead."""

    at: str
    type: str
    device: str
    layers: list[str]
    dangers: list[str]


@dataclass(frozen=True)
class ProofStore:
    """`why` is empty where it takes our token."""

    at: str
    why: str


class _Told(Settings):
    proofs_url: str = ""
    service_token: str = ""
    runner_id: str = ""


def proof_store(told: _Told) -> ProofStore | None:
    """None: nothing was said of one, or no token, as beside a runner that took its identity later
    than the container its environment."""
    if not told.proofs_url or not told.service_token:
        return None
    try:
        why = service_token.asked(told.proofs_url, told.service_token, told.runner_id)
    except httpx.HTTPError as e:
        why = f"it does not answer ({e}): is it up, and PROOFS_URL its address from here?"
    return ProofStore(told.proofs_url, why)


def share(mounted: MountedShare, scratch: Path) -> Share:
    """`scratch`: on a local disk. Nothing stays on the share."""
    found = []
    try:
        bwrap, _ = find_bwrap()
        if layers.is_lower(bwrap, mounted.at, scratch):
            found.append("lower")
        upper = layers.upper_on(bwrap, mounted.at)
        found.append("upper" if upper is LayerKind.OVERLAY else f"{upper.value} for an upper")
    except (OSError, subprocess.SubprocessError, Rejected) as e:  # not this uid's to write
        found.append(f"not to be tried further: {e}")
    dangers = list(shares.dangers(mounted))
    return Share(str(mounted.at), mounted.type, mounted.device, found, dangers)


async def bwrap(folder: Path) -> Backend:
    try:
        sandbox = BwrapSandbox(scratch=folder)
    except Rejected as e:
        return Backend("bwrap", False, e.message, _hint())
    return await _probed("bwrap", sandbox)


async def _probed(name: str, sandbox: Sandbox) -> Backend:
    results = await probe(sandbox)
    escaped = [f"{result.name}: {result.detail}" for result in results if not result.held]
    facts = {**sandbox.describe(), "probes": len(results)}
    if escaped:
        return Backend(name, False, "; ".join(escaped), _hint(), facts)
    overlay = facts["layer"] == LayerKind.OVERLAY
    return Backend(name, True, do="" if overlay else _COPIES, facts=facts)


def _hint() -> str:
    for file, forbids, what in _USER_NAMESPACES:
        try:
            if file.read_text().strip() == forbids:
                return what
        except OSError:
            continue
    return "see docs/architecture.md; inside a container the runner needs a seccomp profile of ours"


async def container(folder: Path, name: str, runtime: str) -> Backend:
    """Without an image: what every container has of the runner's own is enough for the probes."""
    image = Image("none", "", folder / "root", {})
    try:
        ImageStore(folder, os.environ.get("CONTAINER_ENGINE", ENGINE_DEFAULT))
        image.root.mkdir()
        make_fit(image.root)
        sandbox = ContainerSandbox(
            scratch=folder / "scratch",
            images={image.name: image},
            default=image.name,
            runtime=runtime,
        )
    except Rejected as e:
        return Backend(name, False, e.message, _do(e))
    return await _probed(name, sandbox)


def _do(error: Rejected) -> str:
    return "apt-get install podman crun" if error.code in _NOT_INSTALLED else _hint()


async def gvisor(folder: Path) -> Backend:
    found = await container(folder, RUNSC, RUNSC)
    return replace(found, do=_GVISOR_DIFFERS if found.works else _GVISOR_INSTALL)


def kubernetes() -> Backend:
    inside = "KUBERNETES_SERVICE_HOST" in os.environ
    why = "not probed here: a runner in a cluster does so at its start"
    do = "see docs/deploy/kubernetes.md, which says on what cluster it was tried"
    return Backend("kubernetes", False, why, do, {"in_a_cluster": inside})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--uid", type=int, default=privileges.SERVICE_UIDS["runner"])
    told = parser.parse_args()
    log.configure("doctor", level="ERROR")  # what backends warn of is part of what is found
    proofs = proof_store(_Told.from_env(os.environ))  # a secret's file may be root's alone
    with tempfile.TemporaryDirectory(prefix="wfhub-doctor-", ignore_cleanup_errors=True) as name:
        pid = os.fork()  # the folder's owner stays behind to remove it
        if pid == 0:
            os._exit(_examined(Path(name), told.uid, proofs))
        _, status = os.waitpid(pid, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


def _examined(folder: Path, uid: int, proofs: ProofStore | None) -> int:
    if os.geteuid() == 0:
        os.chown(folder, uid, uid)
        privileges.drop(uid, uid, keep_visible=privileges.code_paths(), keep_writable=(folder,))
    runtime = os.environ.get("CONTAINER_RUNTIME", runtimes.DEFAULT)
    for name in ("container", RUNSC):
        (folder / name).mkdir()
    backends = [
        asyncio.run(bwrap(folder / "sandbox")),
        asyncio.run(container(folder / "container", "container", runtime)),
        asyncio.run(gvisor(folder / RUNSC)),
        kubernetes(),
    ]
    ready = any(backend.works for backend in backends) and not (proofs and proofs.why)
    (folder / "layers").mkdir()
    found = {
        "backends": [asdict(each) for each in backends],
        "shares": [asdict(share(each, folder / "layers")) for each in shares.found()],
        "proof_store": asdict(proofs) if proofs else None,
        "ready": ready,
    }
    print(json.dumps(found), flush=True)
    return 0 if ready else 1


if __name__ == "__main__":
    main()
