"""The Job of a run, as Kubernetes' published schemas and its `restricted` standard see it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from deploy_tools import KUBERNETES_VERSIONS, tool
from wfhub_agent_runner.sandbox.pods.manifest import Folders, Pods, job
from wfhub_common.messages import Limits

ROOT = Path("/var/lib/wfhub")


def made(*, bridge: bool = True, user_namespace: bool = True) -> dict[str, Any]:
    pods = Pods(
        namespace="hub",
        image="agents/python:3.11.1",
        sidecar_image="hub/agent-runner:0.1.0",
        claim="hub-agents",
        claim_root=ROOT,
        uid=64001,
        runner="rnr_01",
        instance="hub",
        runtime_class="gvisor",
        user_namespace=user_namespace,
        pull_secret="registry",
    )
    folders = Folders(ROOT / "a/copy", ROOT / "a/files", ROOT / "a/bridge" if bridge else None)
    return job("wfhub-run-1", pods, folders, limits=Limits(), wall_s=60.0)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_it_is_valid(version: str, tmp_path: Path) -> None:
    files = []
    for bridge in (True, False):
        files.append(tmp_path / f"{bridge}.json")
        files[-1].write_text(json.dumps(made(bridge=bridge)))
    done = subprocess.run(
        [tool("kubernetes-validate"), "--strict", "--no-warn", "-k", version, *files],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pod_is_restricted_in_a_user_namespace_of_its_own_and_holds_no_credential() -> None:
    pod = made()["spec"]["template"]["spec"]
    assert pod["hostUsers"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
        assert "env" not in container
    assert {kind for v in pod["volumes"] for kind in v if kind != "name"} == {
        "persistentVolumeClaim",
        "emptyDir",
    }


def test_a_claim_without_idmapped_mounts_is_told_of_and_nothing_else_is_given_up() -> None:
    """NFS: the kubelet cannot mount it into a user namespace, so that no pod would start."""
    usual, without = (
        made(user_namespace=each)["spec"]["template"]["spec"] for each in (True, False)
    )
    assert without == {**usual, "hostUsers": True}


def test_a_node_that_does_not_answer_is_given_up_in_half_a_minute() -> None:
    told = made()["spec"]["template"]["spec"]["tolerations"]
    assert {each["key"]: each["tolerationSeconds"] for each in told} == {
        "node.kubernetes.io/not-ready": 30,
        "node.kubernetes.io/unreachable": 30,
    }


def test_the_agent_sees_its_own_parts_of_the_claim_alone() -> None:
    (agent,) = made()["spec"]["template"]["spec"]["containers"]
    shared = [m for m in agent["volumeMounts"] if m["name"] == "shared"]
    assert {m["subPath"] for m in shared} == {"a/copy", "a/files"}
    assert [m["mountPath"] for m in shared if m.get("readOnly")] == ["/run/wfhub"]


def test_the_agent_can_write_nowhere_but_to_its_workspace_home_and_tmp() -> None:
    (agent,) = made()["spec"]["template"]["spec"]["containers"]
    writable = [m["mountPath"] for m in agent["volumeMounts"] if not m.get("readOnly")]
    assert sorted(writable) == ["/home/agent", "/tmp", "/workspace"]


def test_what_an_agent_may_fill_beside_its_workspace_has_a_hard_limit() -> None:
    volumes = made()["spec"]["template"]["spec"]["volumes"]
    for each in (volume["emptyDir"] for volume in volumes if "emptyDir" in volume):
        assert each["medium"] == "Memory"
        assert each["sizeLimit"]


def test_a_pod_that_may_reach_nothing_has_no_sidecar() -> None:
    assert made(bridge=False)["spec"]["template"]["spec"]["initContainers"] == []
