"""A Kubernetes API server and a kubelet of ours, as far as one Job a run needs them.

The API is simulated (an httpx transport): jobs, their pods, logs, deletion in the foreground. The
pod runs for real, as two bwrap processes with the mounts that its manifest names: nothing is
claimed about how well it is confined. A deletion is a SIGTERM to the agent's container, and a
SIGKILL after the pod's grace, as the kubelet has it. Faults can be asked for: `refusal`, `waiting`,
`cut_log_at`, `outage`, `killed_for`.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
from wfhub_agent_runner.sandbox import usage
from wfhub_agent_runner.sandbox.arguments import system_links
from wfhub_agent_runner.sandbox.bwrap import find_bwrap, own_python

POLL_S = 0.02
Object = dict[str, Any]


@dataclass
class Pod:
    name: str
    folder: Path
    spec: Object
    agent: subprocess.Popen[bytes]
    sidecar: subprocess.Popen[bytes] | None

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def tell(self) -> None:
        """bwrap, its init, and what the kubelet knows as the container's first process."""
        found = usage.processes(self.agent.pid)
        if len(found) > 2:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found[2], signal.SIGTERM)

    async def end(self) -> None:
        self.tell()
        grace_s = self.spec["terminationGracePeriodSeconds"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.agent.wait, grace_s)
        self.kill()

    def kill(self) -> None:
        for process in (self.agent, self.sidecar):
            if process is not None:
                process.kill()
                process.wait()


@dataclass
class ClusterDouble(httpx.AsyncBaseTransport):
    claim: Path  # the folder that is the claim
    jobs: dict[str, Object] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)  # by job
    ending: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    posted: list[str] = field(default_factory=list)
    refusal: str = ""
    waiting: str = ""  # why no container starts
    cut_log_at: int = 0  # bytes after which a follow breaks, once
    outage: int = 0  # how many requests are answered 503, once a pod runs
    killed_for: str = ""  # what the kubelet gives as the reason of the end
    taken_for: str = ""  # why the cluster takes a pod away once it runs; it never ends by itself

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer service-account"
        path, method = request.url.path, request.method
        if self.outage and self.pods and method == "GET":
            self.outage -= 1
            return _status(503, "the server is currently unable to handle the request")
        if method == "GET" and path.endswith("/jobs"):
            return httpx.Response(200, json={"kind": "JobList", "items": self._labelled(request)})
        if method == "POST" and path.endswith("/jobs"):
            return self._create((await request.aread()).decode())
        if path.endswith("/pods"):
            (selector,) = parse_qs(request.url.query.decode())["labelSelector"]
            job = selector.partition("=")[2]
            items = [self._shown(job)] if job in self.jobs else []
            return httpx.Response(200, json={"kind": "PodList", "items": items})
        if path.endswith("/log"):
            name = path.split("/")[-2].removesuffix("-pod")
            return httpx.Response(200, stream=_Stream(self._follow(self.pods[name])))
        job = path.rpartition("/")[2]
        if job not in self.jobs:
            return _status(404, f'jobs.batch "{job}" not found')
        if method == "DELETE":
            assert json.loads(await request.aread())["propagationPolicy"] == "Foreground"
            if job not in self.ending:
                self.ending[job] = asyncio.create_task(self._end_in_time(job))
        return httpx.Response(200, json={"kind": "Job"})

    def _labelled(self, request: httpx.Request) -> list[Object]:
        (selector,) = parse_qs(request.url.query.decode())["labelSelector"]
        label, _, value = selector.partition("=")
        return [job for job in self.jobs.values() if job["metadata"]["labels"].get(label) == value]

    def _create(self, text: str) -> httpx.Response:
        if self.refusal:
            return _status(403, self.refusal)
        self.posted.append(text)
        made = json.loads(text)
        name = made["metadata"]["name"]
        self.jobs[name] = made
        if not self.waiting:
            self.pods[name] = _started(name, made["spec"]["template"]["spec"], self.claim)
        return httpx.Response(201, json=made)

    async def _end_in_time(self, job: str) -> None:
        if job in self.pods:
            await self.pods[job].end()
        self._end(job)

    def _end(self, job: str) -> None:
        if job in self.pods:
            self.pods.pop(job).kill()
        del self.jobs[job]

    def _shown(self, job: str) -> Object:
        state: Object
        if job not in self.pods:
            message = "Back-off pulling image"
            state = {"waiting": {"reason": self.waiting, "message": message}}
        else:
            pod = self.pods[job]
            code = pod.agent.poll()
            state = {"running": {}}
            if code is not None:
                message = (pod.folder / "termination-log").read_text()
                reason = self.killed_for or ("Completed" if code == 0 else "Error")
                state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
        statuses = [{"name": "agent", "state": state}]
        taken = {"type": "DisruptionTarget", "status": "True", "reason": self.taken_for}
        return {
            "metadata": {"name": f"{job}-pod"},
            "status": {
                "phase": "Running",
                "containerStatuses": statuses,
                "conditions": [taken] if self.taken_for else [],
            },
        }

    async def _follow(self, pod: Pod) -> AsyncIterator[bytes]:
        cut, self.cut_log_at = self.cut_log_at, 0
        sent = 0
        with pod.log.open("rb") as log:
            while True:
                ended = pod.agent.poll() is not None
                chunk = log.read(cut - sent if cut else 8192)
                sent += len(chunk)
                if chunk:
                    yield chunk
                if cut and sent >= cut:
                    raise httpx.ReadError("the connection was cut")
                if ended and not chunk:
                    return
                if not chunk:
                    await asyncio.sleep(POLL_S)

    def close_all(self) -> None:
        for task in self.ending.values():
            task.cancel()
        for job in list(self.jobs):
            self._end(job)


@dataclass
class _Stream(httpx.AsyncByteStream):
    chunks: AsyncIterator[bytes]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.chunks:
            yield chunk

    async def aclose(self) -> None:
        with contextlib.suppress(AttributeError):
            await self.chunks.aclose()  # type: ignore[attr-defined]


def _status(code: int, message: str) -> httpx.Response:
    return httpx.Response(code, json={"kind": "Status", "message": message, "code": code})


def _started(name: str, spec: Object, claim: Path) -> Pod:
    folder = Path(tempfile.mkdtemp(prefix="pod-", dir=claim))
    for each in ("sockets", "tmp", "home"):
        (folder / each).mkdir()
    (folder / "termination-log").touch()
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(own_python())
    sidecars = [_run(folder, each, claim, sidecar=True) for each in spec["initContainers"]]
    (container,) = spec["containers"]
    agent = _run(folder, container, claim, sidecar=False)
    return Pod(f"{name}-pod", folder, spec, agent, sidecars[0] if sidecars else None)


def _run(folder: Path, container: Object, claim: Path, *, sidecar: bool) -> subprocess.Popen[bytes]:
    bwrap, _ = find_bwrap()
    words = [str(bwrap), "--die-with-parent", "--unshare-user", "--unshare-pid", "--new-session"]
    if sidecar:  # with this machine's network, where the runner is, and its Python packages
        words += ["--ro-bind", "/", "/", "--tmpfs", "/run"]
    else:
        words += ["--unshare-net", "--clearenv", "--setenv", "PATH", f"{folder}/bin:/usr/bin:/bin"]
        words += ["--ro-bind", "/usr", "/usr", "--ro-bind", sys.base_prefix, sys.base_prefix]
        words += ["--ro-bind", str(folder / "bin"), str(folder / "bin")]
        for path, target in system_links().items():
            words += ["--ro-bind", path, path] if target is None else ["--symlink", target, path]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for mount in container["volumeMounts"]:
        source = folder / mount["name"]
        if mount["name"] == "shared":
            source = claim / mount["subPath"]
            assert source.is_dir(), "the kubelet would make it, as root's"
        bind = "--ro-bind" if mount.get("readOnly") else "--bind"
        words += [bind, str(source), mount["mountPath"]]
    words += ["--bind", str(folder / "termination-log"), "/dev/termination-log"]
    words += ["--chdir", container.get("workingDir", "/"), "--"]
    command = list(container["command"])
    if command[0] == "python":
        command[0] = sys.executable
    log = folder / ("sidecar-log" if sidecar else "log")
    # A kubelet's log has both, in no order that can be relied on: here, errors are left out.
    with log.open("wb") as output, log.with_suffix(".errors").open("wb") as errors:
        return subprocess.Popen(
            [*words, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
            env={"PATH": os.environ.get("PATH", "")},
        )  # fmt: skip
