"""Attempts that are ended from outside, by every real part: what they left is kept, nothing is
published."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import psutil

from .conftest import Stack, eventually, git

# Its child may hear of the end before it does: it goes on until it has.
HALF_DONE = (
    'trap "echo the rest >> half.txt; echo heard so; exit" TERM;'
    " echo half > half.txt; echo said so; while :; do sleep 86397 & wait $!; done"
)


def get(stack: Stack, path: str) -> httpx.Response:
    token = (stack.data / "admin-token").read_text().strip()
    return httpx.get(f"{stack.url}{path}", headers={"Authorization": f"Bearer {token}"})


def task(stack: Stack, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = get(stack, f"/v1/tasks/{task_id}").raise_for_status().json()
    return found


def evidence(stack: Stack, task_id: str) -> dict[str, str]:
    """The artifacts of the task's one attempt, by name."""
    (attempt,) = task(stack, task_id)["attempts"]
    folder = f"/v1/artifacts/{task_id}/{attempt['attempt_id']}"
    names = [receipt["name"] for receipt in attempt["artifacts"]]
    return {name: get(stack, f"{folder}/{name}").raise_for_status().text for name in names}


def half_done(stack: Stack, repository: Path, *options: str) -> str:
    """The id of a task whose agent has done half of its work and sleeps."""
    done = stack.wfhub(
        "run", "--json", "--detach", "--repo", str(repository),
        "--agent-cmd", f"sh -c '{HALF_DONE}'", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    task_id: str = json.loads(done.stdout.strip().splitlines()[-1])["task_id"]
    eventually(asleep)
    return task_id


def asleep() -> bool:
    return any(p.info["cmdline"] == ["sleep", "86397"] for p in psutil.process_iter(["cmdline"]))


def published(repository: Path) -> list[str]:
    refs = git("for-each-ref", "--format=%(refname)", cwd=repository).splitlines()
    return [ref for ref in refs if ref != "refs/heads/main"]


def test_a_cancelled_agents_log_and_changes_are_kept(stack: Stack, repository: Path) -> None:
    task_id = half_done(stack, repository)
    assert stack.wfhub("cancel", task_id).returncode == 0
    eventually(lambda: task(stack, task_id)["state"] == "cancelled")
    assert not asleep()
    kept = evidence(stack, task_id)
    assert "said so" in kept["agent.log"]
    assert "heard so" in kept["agent.log"]  # it was told, and had a moment to write what it had
    assert "+half\n+the rest\n" in kept["result.patch"]
    (attempt,) = task(stack, task_id)["attempts"]
    assert (attempt["state"], attempt["reason"]) == ("cancelled", "cancelled")
    assert published(repository) == []


def test_a_limit_that_is_exceeded_is_named_with_its_figure(
    stack: Stack, repository: Path, tmp_path: Path
) -> None:
    eat = "head -c 300m /dev/zero | tail -c 200m > /dev/null"
    done = stack.wfhub(
        "run", "--json", "--repo", str(repository), "--limit", "memory=64MiB",
        "--agent-cmd", f"sh -c 'echo half > half.txt; {eat}; sleep 60'",
    )  # fmt: skip
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["reason"] == "limit:memory", (result, done.stderr)
    figure = int(result["message"].rpartition(": ")[2].split()[0])
    assert 32 * 1024**2 < figure < 256 * 1024**2
    limits = task(stack, result["task_id"])["spec"]["limits"]
    assert (limits["memory_bytes"], limits["run_s"]) == (64 * 1024**2, 3600)
    assert published(repository) == []


def test_the_proof_says_what_held_and_by_what(
    stack: Stack, repository: Path, tmp_path: Path
) -> None:
    done = stack.wfhub(
        "run", "--json", "--repo", str(repository), "--limit", "cpu=1.5",
        "--agent-cmd", "sh -c 'echo done > done.txt'",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    proof_id = json.loads(done.stdout.strip().splitlines()[-1])["proof_id"]
    exported = tmp_path / "proof.json"
    assert stack.wfhub("proof", "export", proof_id, "-o", str(exported)).returncode == 0
    payload = json.loads(exported.read_text())["envelope"]["payload"]
    observed = json.loads(base64.b64decode(payload))["predicate"]["observed"]["runner"]
    assert observed["sandbox"]["limits_in_force"]["cpu_millicores"] == 1500
    assert set(observed["sandbox"]["limits"]) >= {"cpu", "memory", "processes", "disk", "idle"}
    assert "exceeded" not in observed["sandbox"]


def test_a_silent_agent_is_ended_and_what_it_left_is_kept(stack: Stack, repository: Path) -> None:
    task_id = half_done(stack, repository, "--idle-timeout-s", "6")
    eventually(lambda: task(stack, task_id)["state"] == "failed")
    assert task(stack, task_id)["reason"] == "limit:idle"
    assert not asleep()
    kept = evidence(stack, task_id)
    assert "said so" in kept["agent.log"]
    assert "+half" in kept["result.patch"]
    assert published(repository) == []
