"""The chart as `helm template` renders it: objects, pods, and who may connect to whom."""

import ipaddress
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from deploy_tools import ROOT, tool

CHART = ROOT / "deploy" / "helm" / "workflow-hub"
EXAMPLES = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))
Object = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("helm"), *arguments], capture_output=True, text=True, timeout=60)


def template(*arguments: str) -> subprocess.CompletedProcess[str]:
    return helm("template", "hub", str(CHART), "--namespace", "hub", *arguments)


@cache
def rendered(example: str = "") -> str:
    values = ["--values", str(CHART / "examples" / f"{example}.yaml")] if example else []
    done = template(*values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text: str) -> list[Object]:
    return [found for found in yaml.safe_load_all(text) if found]


def pods(found: list[Object]) -> Iterator[tuple[str, Object]]:
    for each in found:
        if each["kind"] in {"Deployment", "StatefulSet", "Job", "CronJob"}:
            template = each["spec"].get("jobTemplate", each)["spec"]["template"]
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template["spec"]


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


class Policies:
    """Who may open a connection to whom, by the NetworkPolicies of a render."""

    def __init__(self, found: list[Object]) -> None:
        self.policies = [each["spec"] for each in found if each["kind"] == "NetworkPolicy"]
        self.components = {name for name, _ in pods(found)}

    def labels(self, component: str) -> Object:
        return {"app.kubernetes.io/instance": "hub", "app.kubernetes.io/component": component}

    def allowed(self, source: str, target: str, port: int) -> bool:
        out = self.rules(source, "egress", "to")
        into = self.rules(target, "ingress", "from")
        return self._match(out, target, port) and self._match(into, source, port)

    def reaches_outside(self, source: str, address: str, port: int) -> bool:
        for peers, ports in self.rules(source, "egress", "to"):
            for peer in peers:
                block = peer.get("ipBlock")
                if block and _within(address, block) and port in ports:
                    return True
        return False

    def rules(self, component: str, way: str, key: str) -> list[tuple[list[Object], set[int]]]:
        mine = self.labels(component)
        return [
            (rule[key], {p["port"] for p in rule["ports"]})
            for policy in self.policies
            if policy["podSelector"]["matchLabels"].items() <= mine.items()
            for rule in policy.get(way, [])
        ]

    def _match(self, rules: list[tuple[list[Object], set[int]]], other: str, port: int) -> bool:
        theirs = self.labels(other)
        return any(
            port in ports
            and any(
                peer["podSelector"]["matchLabels"].items() <= theirs.items()
                for peer in peers
                if "podSelector" in peer
            )
            for peers, ports in rules
        )


def _within(address: str, block: Object) -> bool:
    at = ipaddress.ip_address(address)
    excepted = [ipaddress.ip_network(e) for e in block.get("except", [])]
    return at in ipaddress.ip_network(block["cidr"]) and not any(at in e for e in excepted)
