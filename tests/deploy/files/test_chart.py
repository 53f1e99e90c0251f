"""The chart, rendered for every example: valid for three versions of Kubernetes, and by our policy.

What it renders by default is kept in golden.yaml: `GOLDEN=write pytest …` writes it anew.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from chart_lab import (
    CHART,
    EXAMPLES,
    Object,
    Policies,
    containers,
    helm,
    objects,
    pods,
    rendered,
    template,
)
from deploy_tools import KUBERNETES_VERSIONS, tool
from wfhub_admin.settings import ProvisionSettings

GOLDEN = Path(__file__).with_name("golden.yaml")
# Of KEDA and of the Prometheus operator: no schema of Kubernetes.
CUSTOM = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}


@pytest.mark.parametrize("example", ["", *EXAMPLES])
def test_it_lints(example: str) -> None:
    values = ["--values", str(CHART / "examples" / f"{example}.yaml")] if example else []
    done = helm("lint", "--strict", str(CHART), *values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_object_of_every_example_is_valid(version: str, tmp_path: Path) -> None:
    """One run for all: the validator takes long to start."""
    different = {
        yaml.safe_dump(each)
        for example in ("", *EXAMPLES)
        for each in objects(rendered(example))
        if each["kind"] not in CUSTOM
    }
    file = tmp_path / "objects.yaml"
    file.write_text("---\n".join(sorted(different)))
    done = subprocess.run(
        [tool("kubernetes-validate"), "--strict", "--no-warn", "-k", version, str(file)],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_validator_would_say_what_is_wrong(tmp_path: Path) -> None:
    (service,) = [each for each in objects(rendered()) if each["metadata"]["name"] == "hub-api"
                  and each["kind"] == "Service"]  # fmt: skip
    service["spec"]["portz"] = service["spec"].pop("ports")
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(service))
    done = subprocess.run(
        [tool("kubernetes-validate"), "--strict", "--no-warn", str(tmp_path / "wrong.yaml")],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode != 0
    assert "portz" in done.stdout + done.stderr


@pytest.mark.parametrize("example", ["", *EXAMPLES])
def test_no_pod_is_privileged_or_without_limits(example: str) -> None:
    found = list(pods(objects(rendered(example))))
    assert {"api", "scheduler", "proof-store", "gateway", "agent-runner"} <= {n for n, _ in found}
    for name, pod in found:
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert not [v for v in pod["volumes"] if "hostPath" in v], name
        for container in containers(pod):
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False, name
            assert confined["readOnlyRootFilesystem"] is True, name
            assert confined["capabilities"] == {"drop": ["ALL"]}, name
            assert not confined.get("privileged"), name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["cpu"], name
            tag = container["image"].rpartition(":")[2]
            assert tag not in {"", "latest"}, container["image"]
            assert "/" not in tag, container["image"]


def test_only_the_runner_departs_from_the_defaults_and_in_a_user_namespace_of_its_own() -> None:
    for name, pod in pods(objects(rendered())):
        odd = [c for c in containers(pod) if c["securityContext"].keys() & {"procMount"}]
        assert bool(odd) == (name == "agent-runner"), name
        assert ("hostUsers" in pod) == (name == "agent-runner"), name
        if odd:
            assert pod["hostUsers"] is False
            assert odd[0]["securityContext"]["seccompProfile"]["type"] == "Localhost"


@pytest.mark.parametrize("example", ["", *EXAMPLES])
def test_secrets_reach_each_pod_as_files_of_its_own(example: str) -> None:
    for name, pod in pods(objects(rendered(example))):
        mounted = {v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
        ours = {secret for secret in mounted if secret.startswith("hub-")}
        own = {
            "agent-runner": {"hub-runners"},
            "provision": {"hub-keeper"},
            "backup": {"hub-keeper", "hub-state"},
        }.get(name, {f"hub-{name}"})
        assert ours <= own, (name, ours)
        for container in containers(pod):
            for variable in container.get("env", []):
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    assert name == "provision", variable
                assert "PASSWORD" not in variable["name"].removesuffix("_FILE") or (
                    variable["name"].endswith("_FILE")
                ), variable


def test_a_runner_pod_sees_its_own_identity_alone() -> None:
    pod = dict(pods(objects(rendered())))["agent-runner"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "identities"]
    assert mount["subPathExpr"] == "$(POD_NAME).json"


@pytest.mark.parametrize("example", ["", *EXAMPLES])
def test_probes_and_disruption_budgets_are_there(example: str) -> None:
    found = objects(rendered(example))
    budgets = {
        each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
        for each in found
        if each["kind"] == "PodDisruptionBudget"
    }
    for name, pod in pods(found):
        if name in {"provision", "backup"}:
            continue
        assert name in budgets or name == "postgres"
        for container in pod["containers"]:
            assert container["readinessProbe"], name


def test_all_traffic_is_denied_but_for_exactly_these_flows() -> None:
    found = objects(rendered("git-based"))
    policies = Policies(found)
    deny = [
        spec for spec in policies.policies if not spec.get("ingress") and not spec.get("egress")
    ]
    assert deny == [
        {
            "podSelector": {"matchLabels": {"app.kubernetes.io/instance": "hub"}},
            "policyTypes": ["Ingress", "Egress"],
        }
    ]
    ports = {
        "api": 8080,
        "proof-store": 8081,
        "gateway": 8090,
        "postgres": 5432,
        "nats": 4222,
        "scheduler": 1,
        "agent-runner": 1,
        "provision": 1,
    }
    flows = {
        (source, target)
        for source in policies.components
        for target in policies.components
        if policies.allowed(source, target, ports[target])
    }
    needed = {
        "nats": {"api", "scheduler", "proof-store", "gateway", "agent-runner"},
        "postgres": {"api", "scheduler", "proof-store", "gateway", "provision"},
        "proof-store": {"api", "gateway", "agent-runner"},
        "gateway": {"agent-runner"},
    }
    assert flows == {(source, target) for target, who in needed.items() for source in who}
    assert policies.allowed("nats", "nats", 6222)
    assert policies.reaches_outside("gateway", "93.184.216.34", 443)
    assert not policies.reaches_outside("gateway", "169.254.169.254", 443)
    assert not policies.reaches_outside("gateway", "10.0.0.1", 443)
    assert policies.reaches_outside("agent-runner", "203.0.113.10", 22)
    assert not policies.reaches_outside("agent-runner", "203.0.113.11", 443)
    for component in ("api", "scheduler", "proof-store", "postgres", "nats"):
        assert not policies.reaches_outside(component, "93.184.216.34", 443), component


def test_keda_asks_as_the_role_that_reads_and_is_let_in_from_its_own_namespace() -> None:
    found = objects(rendered("autoscaled"))
    (asking,) = [each["spec"] for each in found if each["kind"] == "TriggerAuthentication"]
    assert [each["name"] for each in asking["secretTargetRef"]] == ["hub-postgrest"]
    (scaled,) = [each["spec"] for each in found if each["kind"] == "ScaledObject"]
    assert scaled["maxReplicaCount"] == 30
    (trigger,) = scaled["triggers"]
    assert " FROM rest.tasks " in trigger["metadata"]["query"]
    callers = {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for each in found
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "hub-postgres"
        for rule in each["spec"]["ingress"]
        for peer in rule["from"]
        if "namespaceSelector" in peer
    }
    assert callers == {"keda"}
    settings = ProvisionSettings.from_env({"SECRET_PREFIX": "hub", "NAMESPACE": "ci"})
    assert settings.where_in_cluster().postgres_host == "hub-postgres.ci.svc"


def test_without_keda_runners_follow_a_metric_of_the_queue_or_their_cpu() -> None:
    def metric(example: str) -> Object:
        (scaler,) = [
            each["spec"]
            for each in objects(rendered(example))
            if each["kind"] == "HorizontalPodAutoscaler"
        ]
        assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 10)
        (one,) = scaler["metrics"]
        return dict(one)

    assert metric("autoscaled-hpa")["resource"]["name"] == "cpu"
    asked = metric("autoscaled-metric")["external"]
    assert asked["metric"]["name"] == "wfhub_scheduler_tasks"
    assert asked["target"] == {"type": "AverageValue", "averageValue": "2"}


@pytest.mark.parametrize("name", ["api", "scheduler", "gateway", "proof-store", "nats"])
def test_everything_that_may_be_replicated_is_and_is_never_taken_down_together(name: str) -> None:
    found = objects(rendered())
    (owner,) = [
        each
        for each in found
        if each["kind"] in {"Deployment", "StatefulSet"}
        and each["metadata"]["name"] == f"hub-{name}"
    ]
    assert owner["spec"]["replicas"] >= 2
    (budget,) = [
        each["spec"]
        for each in found
        if each["kind"] == "PodDisruptionBudget" and each["metadata"]["name"] == f"hub-{name}"
    ]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= (
        owner["spec"]["template"]["metadata"]["labels"].items()
    )


def test_an_agents_pod_reaches_its_runner_and_not_even_dns() -> None:
    found = objects(rendered("pods"))
    policies = Policies(found)
    policies.components.add("agent")
    reached = {
        (target, port)
        for target in policies.components
        for port in (4222, 5432, 6222, 8070, 8080, 8081, 8090)
        if policies.allowed("agent", target, port)
    }
    assert reached == {("agent-runner", 8070)}
    assert [each["to"] for each in _egress(found, "agent")] == [
        [{"podSelector": {"matchLabels": policies.labels("agent-runner")}}]
    ]
    (namespace,) = [each for each in found if each["kind"] == "Namespace"]
    enforced = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"
    for name, pod in pods(found):
        assert "hostUsers" not in pod, name
        assert not [c for c in containers(pod) if "procMount" in c["securityContext"]], name


def test_a_namespace_of_the_charts_own_outlives_the_release() -> None:
    """Keys and claims are in it, which are kept; `helm uninstall` would take them with it."""
    (namespace,) = [each for each in objects(rendered("pods")) if each["kind"] == "Namespace"]
    assert namespace["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_the_api_reaches_receivers_of_events_only_where_webhooks_are_on() -> None:
    on = template(
        *("--set", "api.webhooks.enabled=true", "--set", "api.webhooks.privateHosts=hooks.corp"),
        *("--set", "networkPolicy.webhooks[0].cidr=192.0.2.0/24"),
        *("--set", "networkPolicy.webhooks[0].ports={443,8443}"),
    )
    assert on.returncode == 0, on.stderr
    asked = {
        "to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
        "ports": [{"port": 443}, {"port": 8443}],
    }
    assert asked in _egress(objects(on.stdout), "api")
    assert '{name: WEBHOOK_PRIVATE_HOSTS, value: "hooks.corp"}' in on.stdout
    off = objects(rendered())
    assert not [rule for rule in _egress(off, "api") if "ipBlock" in str(rule)]
    assert '{name: WEBHOOKS_ENABLED, value: "false"}' in rendered()


def _egress(found: list[Object], component: str) -> list[Object]:
    (policy,) = [
        each["spec"]
        for each in found
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == f"hub-{component}"
    ]
    return list(policy["egress"])


def test_systems_that_hear_events_are_let_in_where_they_are_named() -> None:
    peers = [{"podSelector": {"matchLabels": {"app": "ci"}}}]
    asked = template(
        *("--set", "nats.subscribers=ci"),
        *("--set-json", f"networkPolicy.subscribersFrom={json.dumps(peers)}"),
    )
    assert asked.returncode == 0, asked.stderr
    rule = (peers, {4222})
    assert rule in Policies(objects(asked.stdout)).rules("nats", "ingress", "from")
    assert rule not in Policies(objects(rendered())).rules("nats", "ingress", "from")
    assert '{name: EVENT_SUBSCRIBERS, value: "ci"}' in asked.stdout
    other = template("--set", "nats.subscribers=audit")
    stamps = {
        line.strip()
        for done in (asked, other)
        for line in done.stdout.splitlines()
        if "checksum/subscribers:" in line
    }
    assert len(stamps) == 2  # the servers read their users at their start alone


@pytest.mark.parametrize("example", ["", *EXAMPLES])
def test_nobody_has_rights_in_the_cluster_but_the_provisioner_over_its_own_secrets(
    example: str,
) -> None:
    found = objects(rendered(example))
    kinds = {each["kind"] for each in found}
    assert not {"ClusterRole", "ClusterRoleBinding"} & kinds
    for role in (each for each in found if each["kind"] == "Role"):
        for rule in role["rules"]:
            assert "*" not in rule["verbs"]
            if role["metadata"]["name"] == "hub-agent-runner":
                assert rule["resources"][0] in {"jobs", "pods", "pods/log"}
            else:
                assert rule["resources"] == ["secrets"]
                assert rule["verbs"] == ["create"] or rule["resourceNames"]
    roles = {each["metadata"]["name"] for each in found if each["kind"] == "Role"}
    provisioned = {"hub-provision"} if example != "own-secrets" else set()
    assert roles == provisioned | ({"hub-agent-runner"} if example == "pods" else set())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["image.tag=latest"], "tag"),
        (["runner.backend=none"], "backend"),
        (["nats.replicas=2"], "replicas"),
        (["no.such.value=1"], "no"),
        (["runner.replicas=9"], "runner.replicasMax"),
        (["postgres.bundled=false"], "postgres.urlSecret is needed"),
        (["nats.bundled=false"], "nats.url is needed"),
        (["runner.backend=kubernetes"], "runner.pods.image is needed"),
        (["gateway.baseUrl=models"], "baseUrl"),
        (["restore.file=hub.wfhub"], "restore.claim is needed"),
        (["restore.file=hub.wfhub", "restore.claim=c"], "restore.passphraseSecret is needed"),
        (["restore.file=/etc/passwd"], "file"),
        (["backup.schedule=30 2 * * *"], "backup.claim is needed"),
        (["backup.schedule=30 2 * * *", "backup.claim=c"], "backup.passphraseSecret is needed"),
        (["backup.schedule=nightly"], "schedule"),
        (["observability.metrics.podMonitor.enabled=true"], "needs observability.metrics.enabled"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(values: list[str], says: str) -> None:
    done = template(*(part for value in values for part in ("--set", value)))
    assert done.returncode != 0
    assert says in done.stderr


def test_it_renders_as_it_did() -> None:
    if os.environ.get("GOLDEN") == "write":
        GOLDEN.write_text(rendered())
    assert rendered() == GOLDEN.read_text(), "changed on purpose? GOLDEN=write pytest this test"
