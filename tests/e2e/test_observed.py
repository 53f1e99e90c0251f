"""What a whole stack shows of itself: one trace from REST to proof, and the documented metrics."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import one_edit_model
import own_ports
import pytest
from collector_double import Collector, Seen, collecting
from prometheus_client.parser import text_string_to_metric_families

from .conftest import Stack, eventually, start

READY_S_MAX = 240  # it shares a machine with other suites
pytestmark = pytest.mark.timeout(READY_S_MAX + 120)
ROOT = Path(__file__).parents[2]
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SERVICES = ("scheduler", "proof-store", "gateway", "api", "runner-1")
WORDS = {"gateway": "gateway", "runner-1": "runner", "proof-store": "proof_store"}
ROW = re.compile(r"^\| `(wfhub_[a-z_]+)` \| ([^|]*)\|", re.MULTILINE)


@dataclass
class Observed:
    stack: Stack
    collector: Collector
    ports: dict[str, int]

    def metrics(self, service: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.ports[service]}/metrics")

    def submit(self, repository: Path, **fields: Any) -> str:
        token = (self.stack.data / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "traceparent": f"00-{TRACE}-{CALLER}-01"}
        asked = {"repo": str(repository), **fields}
        made = httpx.post(f"{self.stack.url}/v1/tasks", json=asked, headers=headers)
        assert made.status_code == 201, made.text
        return str(made.json()["task_id"])

    def ended(self, task_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            shown = self.stack.wfhub("status", task_id, "--json")
            task: dict[str, Any] = json.loads(shown.stdout)
            return task if task["finished_at"] else None

        found: dict[str, Any] = eventually(look, within_s=90)
        return found


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    first = own_ports.free_ports(len(SERVICES) + 1)
    model_port = first + len(SERVICES)
    with one_edit_model.serving(model_port), collecting() as collector:
        running = start(
            tmp_path_factory.mktemp("observed") / "data",
            LLM_PROVIDER="openai",
            LLM_BASE_URL=f"http://127.0.0.1:{model_port}/v1",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            METRICS_PORT=str(first),
            ready_s=READY_S_MAX,
        )
        ports = {service: first + number for number, service in enumerate(SERVICES)}
        yield Observed(running, collector, ports)
        running.process.terminate()
        assert running.process.wait(60) == 0


def test_one_trace_leads_from_the_callers_span_to_the_proof(
    observed: Observed, repository: Path, tmp_path: Path
) -> None:
    fields = {"prompt": "American spelling", "verify": ["grep -qx color README.md"]}
    task_id = observed.submit(repository, setup=["true"], agent={"model": "stub"}, **fields)
    task = observed.ended(task_id)
    assert (task["state"], task["trace_id"]) == ("succeeded", TRACE), task

    wanted = {
        *("POST /v1/tasks", "submit_task", "dispatch agent", "attempt agent", "workspace"),
        *("set-up", "agent", "chat stub", "verification", "hand-in", "ingest", "complete", "seal"),
        *("dispatch publish", "attempt publish", "publish"),
    }  # each service sends its own when it likes
    spans = [
        span
        for span in observed.collector.wait(lambda seen: wanted <= {s.name for s in mine(seen)})
        if span.trace_id == TRACE
    ]
    by_id = {span.span_id: span for span in spans}
    by_name = {span.name: span for span in spans}

    def above(name: str) -> str:
        parent = by_id.get(by_name[name].parent_id)
        return f"{parent.service} {parent.name}" if parent else by_name[name].parent_id

    assert above("POST /v1/tasks") == CALLER
    assert above("submit_task") == "wfhub-api POST /v1/tasks"
    for name in ("dispatch agent", "attempt agent", "seal", "dispatch publish", "attempt publish"):
        assert above(name) == "wfhub-scheduler submit_task", name
    for phase in ("workspace", "set-up", "agent", "verification", "hand-in"):
        assert above(phase) == "wfhub-agent-runner attempt agent", phase
    assert above("chat stub") == "wfhub-agent-runner agent"
    assert above("publish") == "wfhub-agent-runner attempt publish"
    assert {above("ingest"), above("complete")} <= {
        "wfhub-agent-runner hand-in",
        "wfhub-agent-runner attempt publish",
    }
    assert {s.service for s in spans if s.name == "seal"} == {"wfhub-proof-store"}
    assert not [span.name for span in spans if span.failed]
    assert all(span.end_ns >= span.start_ns for span in spans)
    assert not [span for span in spans if "American" in span.text], "a prompt is in no span"

    exported = tmp_path / "proof.json"
    done = observed.stack.wfhub("proof", "export", task["proof_id"], "-o", str(exported))
    assert done.returncode == 0, done.stderr
    payload = base64.b64decode(json.loads(exported.read_text())["envelope"]["payload"])
    seen = json.loads(payload)["predicate"]["observed"]["scheduler"]
    assert seen["traceparent"].split("-")[1] == TRACE
    for name in ("runner-1", "proof-store"):  # who say something of a task that goes well
        log = (observed.stack.data / "logs").glob(f"*{name}*.log")
        assert any(f'"trace_id": "{TRACE}"' in path.read_text() for path in log), name


def mine(spans: list[Seen]) -> list[Seen]:
    return [span for span in spans if span.trace_id == TRACE]


def test_every_metric_is_documented_with_its_labels_and_every_documented_one_is_there(
    observed: Observed, repository: Path
) -> None:
    observed.ended(observed.submit(repository, agent={"argv": ["true"]}))
    documented = {
        name: frozenset(re.findall(r"`([a-z_]+)`", labels))
        for name, labels in ROW.findall((ROOT / "docs" / "metrics.md").read_text())
    }
    found = set()
    for service in SERVICES:
        answer = observed.metrics(service)
        assert answer.status_code == 200, answer.text
        for family in text_string_to_metric_families(answer.text):
            name = family.name + ("_total" if family.type == "counter" else "")
            assert name.startswith(f"wfhub_{WORDS.get(service, service)}_"), name
            assert name in documented, f"{name} is not in docs/metrics.md"
            found.add(name)
            for sample in family.samples:
                assert sample.labels.keys() - {"le"} == documented[name], (name, sample)
                assert "tsk_" not in str(sample), sample
    assert found == documented.keys()


def test_figures_of_a_task_are_where_they_should_be(observed: Observed, repository: Path) -> None:
    before = figures(observed)
    argv = ["sh", "-c", "echo new > added.txt"]
    observed.ended(observed.submit(repository, agent={"argv": argv}, verify=["test -e added.txt"]))
    wanted = {
        "wfhub_runner_attempts_ended_total kind=publish outcome=won reason=published",
        "wfhub_api_requests_total operation=submit_task status=201",
        "wfhub_scheduler_claims_total kind=agent pool=default",
        "wfhub_scheduler_claims_total kind=publish pool=default",
        "wfhub_scheduler_dispatch_seconds_count kind=agent pool=default",
        "wfhub_scheduler_attempts_ended_total kind=agent outcome=won",
        "wfhub_scheduler_tasks_ended_total reason= state=succeeded",
        "wfhub_scheduler_seals_total outcome=sealed",
        "wfhub_scheduler_relay_events_total",
        "wfhub_scheduler_turns_total outcome=done turn=sweep",
        "wfhub_proof_store_ingested_total outcome=receipt",
        "wfhub_proof_store_seals_total outcome=sealed",
        "wfhub_proof_store_blob_bytes_total",
        "wfhub_runner_sandbox_runs_total outcome=exited",
        "wfhub_runner_phase_seconds_count phase=agent",
        "wfhub_runner_verdicts_total status=passed",
    }

    def not_grown() -> list[str]:
        after = figures(observed)
        return sorted(name for name in wanted if after.get(name, 0) <= before.get(name, 0))

    with suppress(AssertionError):  # each service counts when it has told the others, or after
        eventually(lambda: not not_grown())
    assert not_grown() == []
    after = figures(observed)
    assert after["wfhub_runner_slots"] == 2
    assert after["wfhub_runner_attempts kind=agent"] == 0
    assert after["wfhub_scheduler_relay_leads"] == 1
    assert after["wfhub_runner_disk_free_bytes"] > 0


def figures(observed: Observed) -> dict[str, float]:
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): (
            sample.value
        )
        for service in SERVICES
        for family in text_string_to_metric_families(observed.metrics(service).text)
        for sample in family.samples
    }


def test_an_agent_and_who_shows_a_token_get_no_metrics(
    observed: Observed, repository: Path
) -> None:
    ports = [str(port) for port in observed.ports.values()]
    reach = (
        "import pathlib, socket, sys\n"
        "out = []\n"
        "for port in sys.argv[1:]:\n"
        "    try: socket.create_connection(('127.0.0.1', int(port)), 2); out.append('reached')\n"
        "    except OSError as e: out.append(type(e).__name__)\n"
        "pathlib.Path('seen.txt').write_text(' '.join(out))\n"
    )
    argv = ["python3", "-c", reach, *ports]
    verify = [f"test \"$(cat seen.txt)\" = '{' '.join(['ConnectionRefusedError'] * len(ports))}'"]
    task = observed.ended(observed.submit(repository, agent={"argv": argv}, verify=verify))
    assert task["state"] == "succeeded", task
    url = f"http://127.0.0.1:{observed.ports['scheduler']}"
    shown = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer wat_x"})
    assert (shown.status_code, b"wfhub_" in shown.content) == (403, False)
    assert httpx.get(f"{url}/healthz").status_code == 404
    assert httpx.post(f"{url}/metrics").status_code == 405
