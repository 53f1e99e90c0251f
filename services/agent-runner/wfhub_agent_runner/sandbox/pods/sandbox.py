"""The kubernetes adapter of the sandbox port: one Job a run, its tree on a claim that both mount.

The tree is a copy (a pod may not mount an overlay), so a run costs what the repository weighs. A
run ends by deleting its Job, and `run` returns only when the API server has no pod of it any more.
A pod has one grace, however it ends: one that passed a limit of ours has it too (not memory's,
which the kernel holds). Folders of the runner's machine cannot be bound into a pod: toolchains
belong into the image; shared caches are not there.
Raises: Rejected from `opened` when the cluster cannot be asked.
"""

import asyncio
import base64
import contextlib
import json
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from wfhub_common.errors import Rejected
from wfhub_common.log import get_logger

from wfhub_agent_runner.sandbox import arguments, forwarder, layers, leftovers, seccomp
from wfhub_agent_runner.sandbox.bwrap import limits_held
from wfhub_agent_runner.sandbox.layers import Layer, LayerKind
from wfhub_agent_runner.sandbox.pods import start, watches
from wfhub_agent_runner.sandbox.pods.api import ACCOUNT, TIMEOUT_S, CannotAsk, Cluster
from wfhub_agent_runner.sandbox.pods.bridge import Bridge
from wfhub_agent_runner.sandbox.pods.manifest import AGENT, RUNNER, SOCKETS, Folders, Pods, job
from wfhub_agent_runner.sandbox.pods.outcome import cannot_start, ended
from wfhub_agent_runner.sandbox.pods.watches import Output
from wfhub_agent_runner.sandbox.port import (
    FILES,
    CannotStart,
    LimitExceeded,
    OnOutput,
    Outcome,
    SandboxResult,
    SandboxSpec,
    TakenAway,
    is_told,
)

POLL_S = 0.5
START_S_MAX = 600.0  # scheduling, and an image that has to be fetched
GONE_S_MAX = 300.0
AWAY_S_MAX = 5.0  # of a pod that was taken away: on a node that is gone it never ends
OUTAGE_S_MAX = 60.0  # of the API server, in a run
TOLD_S_MAX = 3.0  # beyond the grace, until the end of a log is here
OWN = "own"

log = get_logger(__name__)


@dataclass
class KubernetesSandbox:
    cluster: Cluster
    pods: Pods
    bridge: Bridge
    scratch: Path  # below the claim's root
    version: str = ""
    poll_s: float = POLL_S
    interpreter: tuple[str, ...] = ("python3",)
    _sources: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, module in (("start.py", start), ("forwarder.py", forwarder)):
            assert module.__file__ is not None
            self._sources[name] = Path(module.__file__).read_bytes()

    def describe(self, image: str = "") -> dict[str, Any]:
        if image and image != self.pods.image:
            raise Rejected("image-unknown", f"{image[:200]!r} is not an image of this runner's")
        return {
            "backend": "kubernetes",
            "version": self.version,
            "uid": self.pods.uid,
            "image": self.pods.image,
            "layer": LayerKind.COPY.value,
            "limits": {**limits_held(None), "memory": "pod", "cpu": "pod"},
            "runtime_class": self.pods.runtime_class,
            "user_namespace": self.pods.user_namespace,
            "nosuid": False,  # no pod can ask for it
            "seccomp": "RuntimeDefault, and ours for the pod's machine",
        }

    async def run(
        self, spec: SandboxSpec, *, on_output: OnOutput, cancel: asyncio.Event
    ) -> SandboxResult:
        began = time.monotonic()
        output = Output(on_output, spec.limits.output_bytes)
        async with contextlib.AsyncExitStack() as stack:
            try:
                layer, folders = await stack.enter_async_context(self._prepared(spec))
            except (Rejected, OSError) as e:
                outcome: Outcome = CannotStart(str(e))
            else:
                outcome = await self._one_job(spec, layer, folders, output, cancel)
        duration_ms = int((time.monotonic() - began) * 1000)
        return SandboxResult(outcome, duration_ms, output.passed, output.truncated)

    @contextlib.asynccontextmanager
    async def _prepared(self, spec: SandboxSpec) -> AsyncIterator[tuple[Layer, Folders]]:
        """Raises: Rejected, OSError."""
        if spec.binds:
            raise Rejected(
                "sandbox-bind",
                f"a pod cannot see {min(spec.binds)} of the runner's machine: build what agents"
                " need into the sandbox image, and leave TOOLCHAINS empty",
            )
        ways = {inside_path: (str(port), outside) for port, inside_path, outside in _sockets(spec)}
        async with layers.prepared(LayerKind.COPY, spec, scratch=self.scratch) as layer:
            with (
                layers.temporary_folder(self.scratch) as folder,
                self.bridge.admitting(dict(ways.values())) as secret,
            ):
                files = folder / "files"
                self._lay_out(spec, files)
                bridge = None
                if ways:
                    bridge = folder / "bridge"
                    bridge.mkdir()
                    told = {
                        "host": self.bridge.host,
                        "port": self.bridge.port,
                        "secret": secret,
                        "sockets": {way: path for path, (way, _) in ways.items()},
                    }
                    (bridge / "bridge.json").write_text(json.dumps(told))
                yield layer, Folders(layer.upper, files, bridge)

    def _lay_out(self, spec: SandboxSpec, files: Path) -> None:
        (files / OWN).mkdir(parents=True)
        own: dict[str, str] = {}
        contents = {arguments.checked_file(path): data for path, data in spec.files.items()}
        for number, (path, data) in enumerate(contents.items()):
            if path.startswith(f"{FILES}/"):
                target = files / path.removeprefix(f"{FILES}/")
                target.parent.mkdir(parents=True, exist_ok=True)
            else:
                own[path] = f"{OWN}/{number}"
                target = files / own[path]
            target.write_bytes(data)
        for name, source in self._sources.items():
            (files / name).write_bytes(source)
        told = {
            "argv": spec.argv,
            "env": arguments.environment(spec),
            "cwd": spec.cwd,
            "limits": arguments.rlimits(spec, cpu_held=True),  # CPU is the pod's own limit
            "forwards": [(port, path) for port, path, _ in _sockets(spec)],
            "own": own,
            "seccomp": {
                machine: base64.b64encode(
                    seccomp.program(machine, debuggers=spec.debuggers)
                ).decode()
                for machine in seccomp.machines()
            },
        }
        (files / "start.json").write_text(json.dumps(told))

    async def _one_job(
        self,
        spec: SandboxSpec,
        layer: Layer,
        folders: Folders,
        output: Output,
        cancel: asyncio.Event,
    ) -> Outcome:
        name = f"wfhub-run-{secrets.token_hex(8)}"
        manifest = job(
            *(name, self.pods, folders),
            limits=spec.limits,
            wall_s=spec.wall_s,
            grace_s=spec.grace_s(),
        )
        running = asyncio.Event()
        reasons = [
            asyncio.create_task(self._life(name, manifest, spec, output, running)),
            asyncio.create_task(watches.away(self.cluster, name, running)),
            asyncio.create_task(watches.late(running, spec.wall_s)),
            asyncio.create_task(watches.asked(cancel)),
            asyncio.create_task(watches.idle(running, spec, output)),
            asyncio.create_task(watches.disk(running, spec, layer)),
        ]
        gone_s_max = GONE_S_MAX
        try:
            done, _ = await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
            # Of two at once the command's own end is the truth.
            outcome = next(task for task in reasons if task in done).result()
            if is_told(outcome) and (grace_s := spec.grace_s()) > 0:
                await self._told(name, reasons[0], grace_s)
            if isinstance(outcome, TakenAway):
                gone_s_max = AWAY_S_MAX
        finally:
            gone = await asyncio.shield(self._removed(name, reasons, gone_s_max))
        if gone or isinstance(outcome, TakenAway):
            return outcome
        return CannotStart(f"the pod of {name} could not be ended")

    async def _life(
        self,
        name: str,
        manifest: dict[str, Any],
        spec: SandboxSpec,
        output: Output,
        running: asyncio.Event,
    ) -> Outcome:
        try:
            await self.cluster.create_job(manifest)
        except CannotAsk as e:
            return CannotStart(str(e))
        deadline = time.monotonic() + START_S_MAX
        silent_since: float | None = None
        while True:
            try:
                pod = await self.cluster.pod_of(name)
                silent_since = None
                if pod is not None:
                    if why := cannot_start(pod):
                        return CannotStart(why)
                    outcome = ended(pod, spec.limits)
                    if isinstance(outcome, TakenAway):
                        return outcome
                    if outcome is None and _is_running(pod):
                        running.set()
                    if running.is_set() or outcome is not None:
                        await self._follow(pod, output)
                        if output.truncated:
                            return LimitExceeded("output", spec.limits.output_bytes)
                        pod = await self.cluster.pod_of(name)
                        outcome = ended(pod, spec.limits) if pod else None
                        if outcome is not None:
                            return outcome
                elif running.is_set():
                    return TakenAway("the pod was taken away, as by a drained node")
            except CannotAsk as e:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > OUTAGE_S_MAX:
                    return CannotStart(str(e))
            if not running.is_set() and time.monotonic() > deadline:
                return CannotStart(f"no node ran the pod within {START_S_MAX:.0f} s")
            await asyncio.sleep(self.poll_s)

    async def _follow(self, pod: dict[str, Any], output: Output) -> None:
        """The log from its beginning, past what was passed on: a follow may break at any time."""
        skip = output.seen
        async with self.cluster.log(pod["metadata"]["name"], AGENT) as chunks:
            async for chunk in chunks:
                fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                if fresh and not await output.take(fresh):
                    return

    async def _told(self, name: str, life: asyncio.Task[Outcome], grace_s: float) -> None:
        """The kubelet tells the pod, whose last words are passed on."""
        with contextlib.suppress(CannotAsk):
            await self.cluster.delete_job(name)
            await asyncio.wait({life}, timeout=grace_s + TOLD_S_MAX)
        if life.done():
            life.result()  # an error of `on_output` is the caller's

    async def _removed(
        self, name: str, tasks: list[asyncio.Task[Outcome]], gone_s_max: float
    ) -> bool:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        deadline = time.monotonic() + gone_s_max
        while time.monotonic() < deadline:
            with contextlib.suppress(CannotAsk):
                await self.cluster.delete_job(name)
                if await self.cluster.job(name) is None and await self.cluster.pod_of(name) is None:
                    return True
            await asyncio.sleep(self.poll_s)
        log.error("a pod could not be ended", job=name)
        return False


def _sockets(spec: SandboxSpec) -> list[tuple[int, str, Path]]:
    """In the one folder that the sidecar makes them in."""
    return [
        (port, f"{SOCKETS}/{Path(inside).name}", outside)
        for port, inside, outside in arguments.sockets(spec)
    ]


def _is_running(pod: dict[str, Any]) -> bool:
    states = pod.get("status", {}).get("containerStatuses") or []
    return any("running" in each.get("state", {}) for each in states if each["name"] == AGENT)


async def end_leftovers(cluster: Cluster, runner: str, poll_s: float = POLL_S) -> None:
    """What an earlier process of this runner left when it was killed. Raises: CannotAsk."""
    deadline = time.monotonic() + GONE_S_MAX
    while left := await cluster.jobs_of(RUNNER, runner):
        if time.monotonic() > deadline:
            raise CannotAsk(f"the pods of an earlier run do not end: {', '.join(left[:5])}")
        for name in left:
            await cluster.delete_job(name)
        await asyncio.sleep(poll_s)


@dataclass(frozen=True)
class Here:
    """Where this runner is in its cluster."""

    api_host: str
    api_port: int
    pod_ip: str
    bridge_port: int


async def opened(pods: Pods, here: Here, *, scratch: Path) -> KubernetesSandbox:
    """In a pod of the cluster, with its service account. Raises: Rejected."""
    if not scratch.is_relative_to(pods.claim_root):
        raise Rejected(
            "sandbox-claim",
            f"the runner's home {scratch.parent} is not on the claim at {pods.claim_root}, which"
            " pods share with it: set RUNNER_HOME and SANDBOX_CLAIM_ROOT",
        )
    await asyncio.to_thread(scratch.mkdir, mode=0o700, parents=True, exist_ok=True)
    where = f"[{here.api_host}]" if ":" in here.api_host else here.api_host
    try:
        trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
        client = httpx.AsyncClient(
            base_url=f"https://{where}:{here.api_port}",
            verify=trusted,
            timeout=TIMEOUT_S,
            trust_env=False,
        )
        cluster = Cluster(client, pods.namespace)
        version = await cluster.version()
        await end_leftovers(cluster, pods.runner)  # before the folders that they write to
        await asyncio.to_thread(leftovers.sweep, scratch)
        bridge = Bridge(here.pod_ip, here.bridge_port)
        await bridge.start()
    except (OSError, CannotAsk) as e:
        raise Rejected("sandbox-no-cluster", f"the Kubernetes API cannot be asked: {e}") from e
    return KubernetesSandbox(cluster, pods, bridge, scratch, version)
