"""The Job of one run: pure, so that the whole policy can be read and validated here.

The pod is Pod Security `restricted`: nobody in particular, in a user namespace of its own (unless
the claim's file system cannot have that), read-only root, no service-account token, no DNS, limits.
What the task says (its argv, environment and files) is on the claim, which this pod mounts in
parts, and never in the API server, where more people read.
Beside the agent runs a sidecar that passes its sockets on to the runner (sidecar, bridge).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wfhub_common.messages import Limits

from wfhub_agent_runner.sandbox.arguments import tmpfs_bytes
from wfhub_agent_runner.sandbox.port import FILES, HOME, WORKSPACE

AGENT, SIDECAR = "agent", "sidecar"
START_MARGIN_S = 900  # image pull and scheduling, beside the run's own limit
KEPT_S = 300  # of a Job that its runner could not remove
GRACE_S_MIN = 1  # the kubelet confirms the end; 0 would only forget the pod
MIB = 1024 * 1024
SIDECAR_SECRET = "/run/bridge"
SOCKETS = "/run/sockets"  # made by the sidecar, for the agent to connect to and no more
RUNNER = "workflow-hub.dev/runner"  # whose run it is
# Of a node that does not answer: a cluster's own default is 300 s more than it takes to notice.
_TOLERATED = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
_CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True)
class Pods:
    """What every run's pod has in common."""

    namespace: str
    image: str  # with a Python as `python3`
    sidecar_image: str  # the runner's own
    claim: str  # a ReadWriteMany claim that the runner has mounted too
    claim_root: Path  # where
    uid: int  # the runner's: what the agent writes has to be its own
    runner: str  # its id, a label: what is left of an earlier process of it is found by that
    instance: str = ""  # of the installation, a label
    runtime_class: str = ""
    user_namespace: bool = (
        True  # of each pod's own: the claim's file system has to know idmapped mounts
    )
    cpu: str = "1"
    pull_secret: str = ""


@dataclass(frozen=True)
class Folders:
    """Of one run, all below claim_root."""

    workspace: Path
    files: Path  # FILES, read-only
    bridge: Path | None  # for the sidecar alone: the way back to the runner


def job(
    name: str,
    pods: Pods,
    folders: Folders,
    *,
    limits: Limits,
    wall_s: float,
    grace_s: float = 0.0,
) -> dict[str, Any]:
    """`grace_s`: between SIGTERM and SIGKILL, whatever ends the pod."""
    labels = {
        "app.kubernetes.io/name": "workflow-hub",
        "app.kubernetes.io/component": "agent",
        "app.kubernetes.io/managed-by": "wfhub-runner",
        RUNNER: pods.runner,
    }
    pod = _pod(pods, folders, limits)
    pod["terminationGracePeriodSeconds"] = max(GRACE_S_MIN, math.ceil(grace_s))
    if pods.instance:
        labels["app.kubernetes.io/instance"] = pods.instance
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": pods.namespace, "labels": labels},
        "spec": {
            "backoffLimit": 0,  # who tries again is the scheduler
            "completions": 1,
            "parallelism": 1,
            "activeDeadlineSeconds": int(wall_s) + START_MARGIN_S,
            "ttlSecondsAfterFinished": KEPT_S,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _pod(pods: Pods, folders: Folders, limits: Limits) -> dict[str, Any]:
    size = f"{max(1, tmpfs_bytes(limits) // MIB)}Mi"
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "hostUsers": not pods.user_namespace,
        "tolerations": [
            {"key": f"node.kubernetes.io/{why}", **_TOLERATED}
            for why in ("not-ready", "unreachable")
        ],
        "hostname": "sandbox",
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["127.0.0.1"]},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pods.uid,
            "runAsGroup": pods.uid,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_sidecar(pods, folders)] if folders.bridge else [],
        "containers": [_agent(pods, folders, limits)],
        "volumes": [
            {"name": "shared", "persistentVolumeClaim": {"claimName": pods.claim}},
            {"name": "sockets", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            # Memory: of a disk's folder the kubelet measures the size now and then, and evicts.
            {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": size}},
            {"name": "home", "emptyDir": {"medium": "Memory", "sizeLimit": size}},
        ],
    }
    if pods.runtime_class:
        spec["runtimeClassName"] = pods.runtime_class
    if pods.pull_secret:
        spec["imagePullSecrets"] = [{"name": pods.pull_secret}]
    return spec


def _agent(pods: Pods, folders: Folders, limits: Limits) -> dict[str, Any]:
    return {
        "name": AGENT,
        "image": pods.image,
        "command": ["python3", "-I", "-S", f"{FILES}/start.py"],
        "workingDir": WORKSPACE,
        "terminationMessagePath": "/dev/termination-log",
        "securityContext": _CONFINED,
        "resources": {
            "requests": {"cpu": _cpu(pods, limits), "memory": f"{limits.memory_bytes // MIB}Mi"},
            "limits": {"cpu": _cpu(pods, limits), "memory": f"{limits.memory_bytes // MIB}Mi"},
        },
        "volumeMounts": [
            {"name": "sockets", "mountPath": SOCKETS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "home", "mountPath": HOME},
            _part(pods, folders.workspace, WORKSPACE),
            {**_part(pods, folders.files, FILES), "readOnly": True},
        ],
    }


def _sidecar(pods: Pods, folders: Folders) -> dict[str, Any]:
    assert folders.bridge is not None
    return {
        "name": SIDECAR,
        "image": pods.sidecar_image,
        "command": [
            *("python", "-I", "-m", "wfhub_agent_runner.sandbox.pods.sidecar"),
            f"{SIDECAR_SECRET}/bridge.json",
        ],
        "restartPolicy": "Always",  # a sidecar: it ends with the agent, and holds up no Job
        "securityContext": _CONFINED,
        "resources": {
            "requests": {"cpu": "20m", "memory": "64Mi"},
            "limits": {"cpu": "500m", "memory": "128Mi"},
        },
        "volumeMounts": [
            {"name": "sockets", "mountPath": SOCKETS},
            {**_part(pods, folders.bridge, SIDECAR_SECRET), "readOnly": True},
        ],
    }


def _part(pods: Pods, folder: Path, at: str) -> dict[str, Any]:
    inside = folder.relative_to(pods.claim_root)
    return {"name": "shared", "mountPath": at, "subPath": str(inside)}


def _cpu(pods: Pods, limits: Limits) -> str:
    return pods.cpu if limits.cpu_millicores is None else f"{limits.cpu_millicores}m"
