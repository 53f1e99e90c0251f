"""docs/runbooks.md, typed: what its commands show is what it says. (That each command and option is
there: tests/deploy/files/test_pages.py.)"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil

from .conftest import Stack, eventually, git

SLEEP = "86396"  # as no other process here does
AGENT = ("--agent-cmd", "sh -c 'echo x > x.txt'", "--prompt", "x")


def typed(stack: Stack, *words: str) -> str:
    done = stack.wfhub(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def detached(stack: Stack, repository: Path, *words: str) -> str:
    told = typed(stack, "run", "--detach", "--json", "--repo", str(repository), *words)
    return str(json.loads(told.strip().splitlines()[-1])["task_id"])


def asleep() -> bool:
    return any(p.info["cmdline"] == ["sleep", SLEEP] for p in psutil.process_iter(["cmdline"]))


def ended(stack: Stack, task: str) -> str:
    def shown() -> str:
        said = typed(stack, "status", task)
        return said if any(f"  {state}\n" in said for state in ("succeeded", "failed")) else ""

    return str(eventually(shown, within_s=60))


@contextmanager
def receiver(answers: list[int]) -> Iterator[str]:
    """A URL that answers what is first in `answers`, which keeps its last."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hub"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rescued(stack: Stack, repository: Path, task: str, folder: Path) -> str:
    """What the task made, by way of its bundle."""
    bundle = folder / "r.bundle"
    typed(stack, "artifacts", task, "result.bundle", "-o", str(bundle))
    git("fetch", "-q", str(bundle), "refs/*:refs/rescued/*", cwd=repository)
    return git("show", f"refs/rescued/heads/wfhub/{task}:x.txt", cwd=repository)


def test_1_and_3_a_task_that_waits_is_explained_and_ended(stack: Stack, repository: Path) -> None:
    task = detached(stack, repository, "--label", "gpu", *AGENT)
    assert task in typed(stack, "status")
    assert "waits  there is no active runner with the labels gpu" in typed(stack, "status", task)
    (runner,) = (line for line in typed(stack, "runner", "list").splitlines() if "active" in line)
    assert "gpu" not in runner
    assert "default" in typed(stack, "pool", "list")
    typed(stack, "project", "pause", "default")
    assert "  paused  " in typed(stack, "project", "show", "default")
    assert "  active  " in typed(stack, "project", "resume", "default")
    assert "submitted" in typed(stack, "events", task, "--no-follow")
    typed(stack, "cancel", task)
    assert task not in typed(stack, "status")

    runner_id = runner.split()[0]
    typed(stack, "runner", "drain", runner_id)
    eventually(lambda: "draining  running 0/" in typed(stack, "runner", "list"))
    typed(stack, "runner", "drain", runner_id, "--undo")
    assert typed(stack, "dead-letter", "list") == ""


def test_5_the_commit_is_in_the_bundle_when_the_repository_was_not_there(
    stack: Stack, repository: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(repository, gone)
    work = f"echo x > x.txt; exec sleep {SLEEP}"
    task = detached(stack, gone, "--agent-cmd", f"sh -c '{work}'", "--prompt", "x")
    eventually(asleep)
    gone.rename(tmp_path / "away")
    typed(stack, "hand-in", task)
    said = ended(stack, task)
    assert "publish-refused:repo-not-found" in said
    assert "check the path" in said
    assert rescued(stack, repository, task, tmp_path) == "x"


def test_6_a_foreign_branch_is_not_overwritten_and_both_commits_are_named(
    stack: Stack, repository: Path
) -> None:
    typed(stack, "project", "pause", "default")
    task = detached(stack, repository, *AGENT)
    foreign = git("rev-parse", "main", cwd=repository)
    git("branch", f"wfhub/{task}", foreign, cwd=repository)
    typed(stack, "project", "resume", "default")
    said = ended(stack, task)
    assert "publish-conflict" in said
    assert f"({foreign}); nothing was changed" in said
    assert git("rev-parse", f"wfhub/{task}", cwd=repository) == foreign


def test_12_a_proof_verifies_without_its_blobs_and_says_what_does_not(
    stack: Stack, repository: Path, tmp_path: Path
) -> None:
    code, done, said = stack.run("--repo", str(repository), *AGENT)
    assert code == 0, said
    proof = tmp_path / "proof.json"
    typed(stack, "proof", "export", done["proof_id"], "-o", str(proof))
    assert "trusted: sha256:" in typed(stack, "proof", "trust")
    name = "result.patch"
    (digest,) = (
        line.split("sha256:")[1] for line in typed(stack, "artifacts", done["task_id"]).splitlines()
        if line.startswith(name)
    )  # fmt: skip
    blob = stack.data / "proofs" / "sha256" / digest[:2] / digest[2:4] / digest
    blob.rename(tmp_path / digest)
    assert typed(stack, "proof", "verify", str(proof)).startswith("VERIFIED")
    missing = stack.wfhub("artifacts", done["task_id"], name)
    assert f"has no blob sha256:{digest}" in missing.stderr
    shutil.move(tmp_path / digest, blob)
    typed(stack, "artifacts", done["task_id"], name)

    changed = json.loads(proof.read_text())
    payload = changed["envelope"]["payload"]
    other = "A" if payload[-8] != "A" else "B"
    changed["envelope"]["payload"] = payload[:-8] + other + payload[-7:]
    proof.write_text(json.dumps(changed))
    refused = stack.wfhub("proof", "verify", str(proof))
    assert refused.returncode == 1
    assert "NOT VERIFIED: " in refused.stdout + refused.stderr


def test_13_a_result_that_waits_for_a_person_is_found_looked_at_and_decided(
    stack: Stack, repository: Path, tmp_path: Path
) -> None:
    def waiting() -> str:
        task = detached(stack, repository, "--review-s", "600", *AGENT)
        eventually(lambda: task in typed(stack, "list", "--state", "review"), within_s=60)
        return task

    task = waiting()
    assert "decide by" in typed(stack, "status", task)
    assert "+x" in typed(stack, "artifacts", task, "result.patch")
    typed(stack, "approve", task)
    assert "succeeded" in ended(stack, task)
    told = typed(stack, "events", task, "--no-follow", "--json")
    events = [json.loads(line) for line in told.splitlines()]
    assert [e for e in events if e["type"].endswith("task.state_changed")
            and e["data"]["to"] == "review"]  # fmt: skip
    declined = waiting()
    typed(stack, "decline", declined)
    assert "review-declined" in ended(stack, declined)

    late = detached(stack, repository, "--review-s", "1", *AGENT)  # over before one could look
    assert "review-timeout" in ended(stack, late)
    assert rescued(stack, repository, late, tmp_path) == "x"


def position_in(shown: str) -> str:
    return shown.split("position")[1].split()[0]


def test_14_a_webhook_that_is_not_delivered_says_why_and_goes_on_where_it_was(
    stack: Stack, repository: Path
) -> None:
    answers = [401]
    with receiver(answers) as url:
        hook = typed(stack, "webhook", "add", url, "--event", "task.*").split()[0]
        detached(stack, repository, *AGENT)
        eventually(lambda: "failures (401)" in typed(stack, "webhook", "list"))
        shown = typed(stack, "webhook", "show", hook)
        assert all(word in shown for word in ("refused", "failing_since", "next_try_at")), shown
        test = stack.wfhub("webhook", "test", hook)
        assert (test.returncode, test.stdout.split()) == (1, ["refused", "401"])
        position = position_in(shown)

        answers[:] = [410]
        typed(stack, "webhook", "resume", hook)  # tried at once
        eventually(lambda: "disabled (" in typed(stack, "webhook", "list"))
        assert position_in(typed(stack, "webhook", "show", hook)) == position, "all is to come"
        answers[:] = [200]
        assert typed(stack, "webhook", "test", hook).split() == ["delivered", "200"]
        typed(stack, "webhook", "resume", hook)
        eventually(lambda: position_in(typed(stack, "webhook", "show", hook)) != position)
        assert "failures" not in typed(stack, "webhook", "list")
        assert typed(stack, "webhook", "rotate", hook, "--overlap-s", "0").startswith("whsec_")
    typed(stack, "webhook", "remove", hook)
    assert typed(stack, "webhook", "list") == ""
