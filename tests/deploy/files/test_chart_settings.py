"""What an operator of compose can set, one of the chart can too."""

import json
import subprocess

import pytest
from chart_lab import CHART, Object, objects, pods, template
from deploy_tools import ROOT, tool

COMPOSE = ROOT / "deploy" / "compose"
# How each is named in compose.yaml.
SERVICES = {
    "api": "api",
    "scheduler": "scheduler",
    "proof-store": "proof-store",
    "gateway": "llm-gateway",
    "agent-runner": "agent-runner",
}
# A tape instead of a model is for tests; a runner's pod finds its NATS in its identity.
NOT_OF_A_CLUSTER = {
    "gateway": {"LLM_CASSETTE"},
    "agent-runner": {"NATS_URL_FILE", "NATS_PASSWORD_FILE"},
}
ALL_ON = (
    *("--values", str(CHART / "examples" / "private-hosts.yaml")),
    *("--set", "runner.workspaces.enabled=true", "--set", "observability.metrics.enabled=true"),
    *("--set", "observability.traces.endpoint=http://collector:4318"),
)


def pod_of(component: str, *arguments: str) -> Object:
    done = template(*arguments)
    assert done.returncode == 0, done.stderr
    return dict(pods(objects(done.stdout)))[component]


def environment(pod: Object) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in pod["containers"][0]["env"]}


@pytest.mark.parametrize("component", SERVICES)
def test_what_compose_hands_a_service_the_chart_hands_it_too(component: str) -> None:
    argv = [tool("docker-compose"), "-f", str(COMPOSE / "compose.yaml"), "config"]
    done = subprocess.run(
        [*argv, "--format", "json"], env={}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    in_compose = json.loads(done.stdout)["services"][SERVICES[component]]["environment"]
    missing = set(in_compose) - set(environment(pod_of(component, *ALL_ON)))
    assert missing == NOT_OF_A_CLUSTER.get(component, set())


@pytest.mark.parametrize(
    ("component", "variable", "value"),
    [
        ("api", "WEBHOOK_CA_FILE", "api.webhooks.caConfigMap"),
        ("agent-runner", "GIT_CA_FILE", "runner.git.caConfigMap"),
    ],
)
def test_authorities_of_ones_own_are_a_file_of_a_config_map(
    component: str, variable: str, value: str
) -> None:
    on = ("--set", "api.webhooks.enabled=true")
    assert variable not in environment(pod_of(component, *on))
    pod = pod_of(component, *on, "--set", f"{value}=mine")
    folder, _, name = environment(pod)[variable].rpartition("/")
    assert name == "ca.pem"
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == folder]
    assert mount["readOnly"] is True
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    assert volume["configMap"] == {"name": "mine"}


@pytest.mark.parametrize(
    ("size", "kept_bytes"),
    [("512Mi", 256 * 1024**2), ("20Gi", 10 * 1024**3), ("3Ti", 3 * 1024**4 // 2)],
)
def test_a_runner_keeps_less_than_what_its_pod_is_evicted_for(size: str, kept_bytes: int) -> None:
    """Above it the kubelet ends the pod; the runner would see no full disk."""
    pod = pod_of("agent-runner", "--set", f"runner.home.size={size}")
    assert int(environment(pod)["CACHE_BYTES_MAX"]) == kept_bytes


@pytest.mark.parametrize("value", ["true", "false"])
def test_agents_pods_have_a_user_namespace_unless_the_claim_cannot(value: str) -> None:
    pods = ("--set", "runner.backend=kubernetes", "--set", "runner.pods.image=agents:1.0.0")
    pod = pod_of("agent-runner", *pods, "--set", f"runner.pods.userNamespace={value}")
    assert environment(pod)["SANDBOX_USER_NAMESPACE"] == value
