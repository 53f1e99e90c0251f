"""Alert rules and dashboard: read by Prometheus' grammar, about metrics and runbooks that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_tools import ROOT, tool

HERE = ROOT / "deploy" / "observability"
METRIC = re.compile(r"\bwfhub_[a-z_]+")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
MATCHED = re.compile(r"(wfhub_[a-z_]+|up)\{([^}]*)\}")
ROW = re.compile(r"^\| `(wfhub_[a-z_]+)` \| ([^|]*)\| (\*database\*|histogram)?", re.MULTILINE)
PROMETHEUS_OWN = {"le", "instance", "job"}
PARSE = """
import json, promql_parser, sys
for expression in json.load(sys.stdin):
    try:
        promql_parser.parse(expression)
    except ValueError as e:
        print(f"{expression}: {e}")
"""


def documented() -> dict[str, set[str]]:
    """Series → its labels."""
    found: dict[str, set[str]] = {}
    for name, labels, kind in ROW.findall((ROOT / "docs" / "metrics.md").read_text()):
        for suffix in ("_bucket", "_count", "_sum") if kind == "histogram" else ("",):
            found[name + suffix] = set(re.findall(r"`([a-z_]+)`", labels))
    return found


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = json.loads((HERE / "dashboard.json").read_text())["panels"]
    return [panel for panel in shown if panel["type"] != "row"]


def expressions() -> list[str]:
    """As Prometheus gets them: Grafana fills in its interval."""
    found = [rule["expr"] for rule in alerts()]
    found += [target["expr"] for panel in panels() for target in panel["targets"]]
    return [expression.replace("$__rate_interval", "5m") for expression in found]


def parsed(asked: list[str]) -> str:
    done = subprocess.run(
        [tool("python"), "-c", PARSE],
        input=json.dumps(asked), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_expression_is_promql() -> None:
    assert parsed(expressions()) == ""
    assert "sum(" in parsed(["sum("]), "the parser would say what is wrong"


def test_every_series_and_label_is_documented() -> None:
    known = documented()
    assert len(known) > 50
    for expression in expressions():
        used = set(METRIC.findall(expression))
        assert used <= known.keys(), expression
        labels = set().union(*(known[name] for name in used)) | PROMETHEUS_OWN
        for grouped in GROUPED.findall(expression):
            assert {each.strip() for each in grouped.split(",")} <= labels, expression
        for name, matchers in MATCHED.findall(expression):
            named = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", matchers))
            assert named <= known.get(name, set()) | PROMETHEUS_OWN, expression


def test_every_documented_metric_is_shown_or_watched() -> None:
    used = set(METRIC.findall(" ".join(expressions())))
    names = [name for name, _, _ in ROW.findall((ROOT / "docs" / "metrics.md").read_text())]
    assert not [n for n in names if not used & {n, f"{n}_bucket", f"{n}_count", f"{n}_sum"}]


def test_each_alert_leads_to_a_section_of_the_runbooks() -> None:
    text = (ROOT / "docs" / "runbooks.md").read_text()
    sections = {slug(line.lstrip("# ")) for line in text.splitlines() if line.startswith("#")}
    for rule in alerts():
        file, _, section = rule["annotations"]["runbook"].partition("#")
        assert file == "docs/runbooks.md"
        assert section in sections, (rule["alert"], section)
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names)) > 10


def slug(heading: str) -> str:
    """As GitHub makes anchors."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    shown = json.loads((HERE / "dashboard.json").read_text())
    ids = [panel["id"] for panel in shown["panels"]]
    assert len(ids) == len(set(ids))
    assert [each["name"] for each in shown["templating"]["list"]] == ["datasource"]
    for panel in panels():
        assert panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs Debian's package prometheus")
def test_prometheus_own_tool_accepts_rules_and_configuration(tmp_path: Path) -> None:
    for name in ("alerts.yaml", "prometheus.yaml"):
        (tmp_path / name).write_text((HERE / name).read_text())
    for kind, name in (("rules", "alerts.yaml"), ("config", "prometheus.yaml")):
        done = subprocess.run(
            ["promtool", "check", kind, str(tmp_path / name)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
