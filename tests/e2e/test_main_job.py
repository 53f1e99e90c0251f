"""The main job through every real part: CLI, API, scheduler, runner, sandbox, proof-store."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from .conftest import WFHUB, Stack, eventually, git


def refs(repo: Path) -> list[str]:
    return git("for-each-ref", "--format=%(refname)", cwd=repo).splitlines()


def test_a_codemod_becomes_exactly_one_branch_and_a_proof_that_verifies(
    stack: Stack, repository: Path, tmp_path: Path
) -> None:
    base = git("rev-parse", "HEAD", cwd=repository)
    code, result, progress = stack.run(
        "--repo", str(repository),
        "--prompt", "American spelling",
        "--agent-cmd", "sh -c 'sed -i s/colour/color/ README.md; echo new > added.txt'",
        "--verify", "grep -qx color README.md",
        "--verify", "test -x tool.sh && git status",
        "--verify-base",
    )  # fmt: skip
    assert code == 0, (result, progress)
    assert result["state"] == "succeeded"
    assert result["verdict"] == "passed"
    assert result["attempts"] == 1
    task = result["task_id"]
    assert result["branch"] == f"wfhub/{task}"
    assert sorted(refs(repository)) == sorted(
        ["refs/heads/main", f"refs/heads/wfhub/{task}", f"refs/wfhub/published/{task}"]
    )
    assert git("rev-parse", f"wfhub/{task}", cwd=repository) == result["commit"]
    assert git("rev-parse", f"wfhub/{task}^", cwd=repository) == base
    changed = git("diff", "--name-status", "main", f"wfhub/{task}", cwd=repository).split()
    assert changed == ["M", "README.md", "A", "added.txt"]
    assert git("status", "--porcelain", cwd=repository) == "", "the working tree was touched"
    git("fsck", "--strict", cwd=repository)

    exported = tmp_path / "proof.json"
    done = stack.wfhub("proof", "export", result["proof_id"], "-o", str(exported))
    assert done.returncode == 0, done.stderr
    verified = stack.wfhub("proof", "verify", str(exported))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert result["commit"][:12] in verified.stdout

    listed = stack.wfhub("artifacts", task, "--json")
    named = {kept["name"]: kept for kept in map(json.loads, listed.stdout.splitlines())}
    assert "agent.log" in named, listed.stderr
    fetched = stack.wfhub("artifacts", task, "agent.log", "-o", str(tmp_path / "agent.log"))
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / "agent.log").stat().st_size == named["agent.log"]["size"]

    forged = json.loads(exported.read_text())
    payload = forged["envelope"]["payload"]
    forged["envelope"]["payload"] = ("A" if payload[40] != "A" else "B").join(
        [payload[:40], payload[41:]]
    )
    (tmp_path / "forged.json").write_text(json.dumps(forged))
    assert stack.wfhub("proof", "verify", str(tmp_path / "forged.json")).returncode != 0


def test_a_rejected_result_is_not_published(stack: Stack, repository: Path) -> None:
    code, result, _ = stack.run(
        "--repo", str(repository),
        "--agent-cmd", "sh -c 'echo x > f'",
        "--verify", "test -e nowhere",
    )  # fmt: skip
    assert code == 1
    assert (result["state"], result["reason"]) == ("failed", "verification-failed")
    assert result["verdict"] == "failed"
    assert refs(repository) == ["refs/heads/main"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--base", "no-such-branch", "--agent-cmd", "true"], "base-not-found"),
        (["--agent", "no-such-agent", "--prompt", "x"], "agent-unknown"),
        (["--agent-cmd", "no-such-program"], "agent-cannot-start"),
        (["--agent-cmd", "true"], "no-changes"),
        (["--agent-cmd", "sh -c 'echo x > f; exit 3'"], "agent-failed"),
        (
            ["--agent-cmd", "sh -c 'echo x > f'", "--verify", "no-such-checker --all"],
            "verify-cannot-start",
        ),
        (["--agent", "builtin", "--prompt", "x"], "model-unavailable"),
    ],
)
def test_bad_input_ends_with_a_reason_and_leaves_nothing(
    stack: Stack, repository: Path, arguments: list[str], reason: str
) -> None:
    code, result, progress = stack.run("--repo", str(repository), *arguments)
    assert code == 1, progress
    assert (result["state"], result["reason"]) == ("failed", reason)
    assert refs(repository) == ["refs/heads/main"]


def test_a_repository_without_a_commit_is_named(stack: Stack, tmp_path: Path) -> None:
    git("init", "-q", str(tmp_path / "empty"))
    code, result, _ = stack.run("--repo", str(tmp_path / "empty"), "--agent-cmd", "true")
    assert (code, result["reason"]) == (1, "repo-empty")


def test_a_repository_that_is_not_there_is_refused_before_anything_runs(
    stack: Stack, tmp_path: Path
) -> None:
    done = stack.wfhub("run", "--repo", str(tmp_path / "nowhere"), "--agent-cmd", "true")
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_a_prompt_over_the_limit_is_refused(stack: Stack, repository: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.md"
    prompt.write_text("x" * (256 * 1024 + 1))
    done = stack.wfhub("run", "--repo", str(repository), "--prompt", f"@{prompt}")
    assert done.returncode == 2
    assert "prompt" in done.stderr


def runner_of(stack: Stack) -> psutil.Process | None:
    for process in psutil.Process(stack.process.pid).children(recursive=False):
        with contextlib.suppress(psutil.NoSuchProcess):  # another one, that has ended
            if "wfhub_agent_runner.main" in " ".join(process.cmdline()):
                return process
    return None


def test_a_runner_killed_in_mid_task_ends_in_success_on_the_second_attempt(
    stack: Stack, repository: Path
) -> None:
    sleep = ["sleep", f"{3600 + os.getpid()}.0401"]  # no other's of this machine
    agent = f"sh -c '{' '.join(sleep)}; echo done > result.txt'"
    run = subprocess.Popen(
        [WFHUB, "run", "--json", "--repo", str(repository), "--agent-cmd", agent],
        env=stack.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def agents() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == sleep]

    (agent_process,) = eventually(agents)
    runner = eventually(lambda: runner_of(stack))
    os.kill(runner.pid, signal.SIGKILL)
    eventually(lambda: not agent_process.is_running())
    eventually(agents)[0].kill()  # the second time it goes on
    out, err = run.communicate(timeout=100)
    result = json.loads(out.strip().splitlines()[-1])
    assert run.returncode == 0, err
    assert result["state"] == "succeeded"
    assert result["attempts"] == 2
    assert git("show", f"wfhub/{result['task_id']}:result.txt", cwd=repository) == "done"


def test_a_cancelled_task_stops_its_agent_and_publishes_nothing(
    stack: Stack, repository: Path
) -> None:
    done = stack.wfhub(
        "run", "--json", "--detach", "--repo", str(repository), "--agent-cmd", "sleep 86399"
    )
    task = json.loads(done.stdout.strip().splitlines()[-1])["task_id"]

    def asleep() -> bool:
        return any(
            p.info["cmdline"] == ["sleep", "86399"] for p in psutil.process_iter(["cmdline"])
        )

    eventually(asleep)
    assert stack.wfhub("cancel", task).returncode == 0

    def state() -> str:
        shown = stack.wfhub("status", task, "--json")
        return str(json.loads(shown.stdout)["state"])

    eventually(lambda: state() == "cancelled")
    eventually(lambda: not asleep())
    assert refs(repository) == ["refs/heads/main"]


def test_an_agent_reaches_nothing_but_its_workspace(
    stack: Stack, repository: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("canary-5f1c")
    port = stack.url.rsplit(":", 1)[1]
    script = (
        f"cat {secret} {stack.data}/secrets/* /etc/shadow > stolen 2>&1; env >> stolen; "
        f"(echo > /dev/tcp/127.0.0.1/{port}) 2>> stolen && echo REACHED >> stolen; true"
    )
    code, result, progress = stack.run(
        "--repo", str(repository), "--agent-cmd", f"bash -c '{script}'"
    )
    assert code == 0, progress
    stolen = git("show", f"wfhub/{result['task_id']}:stolen", cwd=repository)
    assert "canary-5f1c" not in stolen
    assert "REACHED" not in stolen
    assert "root:" not in stolen
    assert "wst_" not in stolen
