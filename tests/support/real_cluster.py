"""A real cluster for the sandbox's tests, when TEST_KUBERNETES names a file that says where it is.

The file is JSON: {"server": URL, "ca": path, "token": path, of a service account with the chart's
Role for runners, "namespace", "claim", "claim_root": where this machine has that claim, "image":
with `python3` and what image_lab's has, "sidecar_image": the runner's, "bridge_host": this
machine's address for pods; and "cpu" of each pod, when its nodes are small}. The tests' folders
have to be on the claim, as by `--basetemp=<claim_root>/tests`. The pods' processes are found on
this machine: it has to be the node, too.
"""

import asyncio
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import httpx
from wfhub_agent_runner.sandbox.pods.api import TIMEOUT_S, Cluster
from wfhub_agent_runner.sandbox.pods.bridge import Bridge
from wfhub_agent_runner.sandbox.pods.manifest import Pods
from wfhub_agent_runner.sandbox.pods.sandbox import KubernetesSandbox
from wfhub_agent_runner.sandbox.port import OnOutput, SandboxResult, SandboxSpec

FILE = os.environ.get("TEST_KUBERNETES", "")
RUNNER = "rnr_tests"
MISSING = "" if FILE else "TEST_KUBERNETES names no cluster"


@dataclass
class OnCluster(KubernetesSandbox):
    """With its bridge from the first run on: `opened` reads a pod's own service account."""

    async def run(
        self, spec: SandboxSpec, *, on_output: OnOutput, cancel: asyncio.Event
    ) -> SandboxResult:
        if not self.bridge.port:
            await self.bridge.start()
        return await super().run(spec, on_output=on_output, cancel=cancel)


@dataclass(frozen=True)
class RealCluster:
    """Read by root, before a test becomes the runner's uid."""

    told: dict[str, str]
    authority: str
    token: str

    def sandbox(self, scratch: Path) -> OnCluster:
        scratch.mkdir(mode=0o700, exist_ok=True)
        token = scratch.with_name(f"{scratch.name}-token")
        token.write_text(self.token)
        client = httpx.AsyncClient(
            base_url=self.told["server"],
            verify=ssl.create_default_context(cadata=self.authority),
            timeout=TIMEOUT_S,
            trust_env=False,
        )
        pods = Pods(
            namespace=self.told["namespace"],
            image=self.told["image"],
            sidecar_image=self.told["sidecar_image"],
            claim=self.told["claim"],
            claim_root=Path(self.told["claim_root"]),
            uid=os.geteuid(),
            runner=RUNNER,
            cpu=self.told.get("cpu", "1"),
        )
        cluster = Cluster(client, pods.namespace, token)
        return OnCluster(cluster, pods, Bridge(self.told["bridge_host"]), scratch)


def opened() -> RealCluster:
    told = json.loads(Path(FILE).read_text())
    return RealCluster(told, Path(told["ca"]).read_text(), Path(told["token"]).read_text())
