"""The chart's provisioning job with a backup to bring back. (That it does: tests/deploy/moving.)"""

import subprocess

import pytest
import yaml
from chart_lab import CHART, containers, objects, pods, rendered, template
from deploy_tools import KUBERNETES_VERSIONS, tool

CARRIER = CHART.parent / "carrier.yaml"


def test_a_restore_comes_before_the_schemas_that_services_wait_for() -> None:
    pod = dict(pods(objects(rendered("restored"))))["provision"]
    order = [each["name"] for each in containers(pod)]
    assert order == ["keys", "secrets", "restore", "database"]
    mounts = {c["name"]: {m["name"] for m in c["volumeMounts"]} for c in containers(pod)}
    assert {name for name, have in mounts.items() if "token" in have} == {"keys", "secrets"}
    assert {name for name, have in mounts.items() if "passphrase" in have} == {"keys", "restore"}
    assert {name for name, have in mounts.items() if "proofs" in have} == {"restore"}
    store = dict(pods(objects(rendered("restored"))))["proof-store"]
    assert pod["securityContext"] == store["securityContext"]  # whose files it writes
    claims = {
        v["name"]: v["persistentVolumeClaim"]
        for v in pod["volumes"]
        if "persistentVolumeClaim" in v
    }
    assert claims["backup"] == {"claimName": "backup", "readOnly": True}
    (theirs,) = [v for v in store["volumes"] if v["name"] == "proofs"]
    assert claims["proofs"] == theirs["persistentVolumeClaim"]
    assert "affinity" not in pod


def test_a_claim_of_one_node_is_restored_on_that_node() -> None:
    values = (CHART / "examples" / f"{name}.yaml" for name in ("restored", "small"))
    done = template(*(part for file in values for part in ("--values", str(file))))
    pod = dict(pods(objects(done.stdout)))["provision"]
    (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    chosen = term["labelSelector"]["matchLabels"]
    assert chosen["app.kubernetes.io/component"] == "proof-store"


def test_the_pod_that_carries_a_backup_in_is_admitted_everywhere_and_fits_the_example() -> None:
    claim, pod = objects(CARRIER.read_text())
    values = yaml.safe_load((CHART / "examples" / "restored.yaml").read_text())["restore"]
    assert claim["metadata"]["name"] == values["claim"]
    job = dict(pods(objects(rendered("restored"))))["provision"]
    for name in ("runAsNonRoot", "runAsUser", "fsGroup", "seccompProfile"):
        assert pod["spec"]["securityContext"][name] == job["securityContext"][name], name
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"] == job["containers"][0]["securityContext"]
    assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS[-1:])
def test_the_carrier_is_valid(version: str) -> None:
    done = subprocess.run(
        [tool("kubernetes-validate"), "--strict", "--no-warn", "-k", version, str(CARRIER)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
