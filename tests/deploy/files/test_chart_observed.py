"""The chart's metrics, spans and the Prometheus operator's objects."""

import yaml
from chart_lab import Policies, containers, objects, pods, rendered
from deploy_tools import ROOT

WATCHED = {"api", "scheduler", "proof-store", "gateway", "agent-runner"}


def test_metrics_are_reached_by_who_scrapes_alone_and_spans_leave_for_the_collector() -> None:
    found = objects(rendered("observed"))
    for name, pod in pods(found):
        given = {v["name"]: v.get("value") for c in containers(pod) for v in c.get("env", [])}
        assert ("METRICS_LISTEN" in given) == (name in WATCHED), name
        assert ("OTEL_EXPORTER_OTLP_ENDPOINT" in given) == (name in WATCHED), name
    scraped = {
        each["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for each in found
        if each["kind"] in {"Deployment", "StatefulSet"}
        and each["spec"]["template"]["metadata"].get("annotations", {}).get("prometheus.io/port")
        == "9464"
    }
    assert scraped == WATCHED
    policies = Policies(found)
    for source in policies.components:
        for target in policies.components:
            assert not policies.allowed(source, target, 9464), (source, target)
    monitoring = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    }
    for name in WATCHED:
        assert ([monitoring], {9464}) in policies.rules(name, "ingress", "from"), name
        assert ([monitoring], {4318}) in policies.rules(name, "egress", "to"), name
    off = [each["metadata"]["name"] for each in objects(rendered())]
    assert not [name for name in off if name.endswith(("-metrics", "-traces"))]


def test_the_prometheus_operator_finds_every_port_and_the_alerts_by_their_label() -> None:
    found = objects(rendered("observed"))
    (monitor,) = [each for each in found if each["kind"] == "PodMonitor"]
    (rules,) = [each for each in found if each["kind"] == "PrometheusRule"]
    for each in (monitor, rules):
        assert each["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (chosen,) = monitor["spec"]["selector"]["matchExpressions"]
    ported = {
        name
        for name, pod in pods(found)
        for port in pod["containers"][0].get("ports", [])
        if (port["name"], port["containerPort"]) == (endpoint["port"], 9464)
    }
    assert ported == set(chosen["values"]) == WATCHED
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/name"  # up{job="workflow-hub"}
    alerts = yaml.safe_load((ROOT / "deploy" / "observability" / "alerts.yaml").read_text())
    assert rules["spec"] == alerts
    kinds = {each["kind"] for each in objects(rendered())}
    assert not kinds & {"PodMonitor", "PrometheusRule"}
