"""`wfhub` as a process, against a running API: what it prints, where, and how it exits."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from page_lab import with_result
from wfhub_common import ids, subjects


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    (tmp_path / "repo").mkdir()
    return tmp_path / "repo"


def ends(hub: Any, state: str, **columns: Any) -> None:
    """The stand-in scheduler takes a submitted task through one attempt to `state`."""

    async def played(task_id: str) -> None:
        await hub.scheduler.event(task_id, "task.submitted")
        attempt_id = await hub.scheduler.attempt(task_id, base_commit="b" * 40)
        at = subjects.AttemptSubject("rnr_x", "prj_x", task_id, attempt_id)
        header = {"wfhub-log": "agent"}
        await hub.nats.jetstream().publish(subjects.log(at), b"hello from it\n", headers=header)
        await hub.scheduler.event(task_id, "attempt.step", {"step": "agent-started"})
        await hub.scheduler.update(
            "api_attempt", attempt_id, state="won" if state == "succeeded" else "failed"
        )
        branch = {"branch": f"wfhub/{task_id}"} if state == "succeeded" else {}
        await hub.scheduler.finish(task_id, state, attempts_used=1, **branch, **columns)

    hub.scheduler.on_submit = played


async def test_run_follows_a_task_to_success_and_says_how_to_look(hub: Any, repo: Path) -> None:
    ends(hub, "succeeded", verdict="passed", commit_id="c" * 40, proof_id="prf_x")
    done = await hub.cli(
        *("run", "--repo", "repo", "--prompt", "do it", "--verify", "true", "--verify", "make x")
    )
    assert done.code == 0, done.err
    asked = hub.scheduler.submitted[0]
    assert asked.spec.repo == str(repo)
    assert asked.spec.verify == ("true", "make x")
    for text in ("submitted", "agent-started", "| hello from it", "task running → succeeded"):
        assert text in done.out
    task_id = done.out.split()[1]
    assert f"git -C {repo} diff {'b' * 12}..wfhub/{task_id}" in done.out
    assert "wfhub proof verify prf_x" in done.out


async def test_a_task_is_run_again_and_followed(hub: Any) -> None:
    ends(hub, "succeeded")
    task_id = await hub.scheduler.task(state="failed", spec={"repo": "/r", "prompt": "again"})
    done = await hub.cli("retry", task_id, "--json")
    assert (done.code, json.loads(done.out)["state"]) == (0, "succeeded"), done.err
    assert json.loads(done.out)["task_id"] != task_id
    detached = await hub.cli("retry", task_id, "--detach")
    assert detached.out.startswith("tsk_")
    assert [command.spec.prompt for command in hub.scheduler.submitted] == ["again", "again"]
    malformed = await hub.cli("retry", "tsk_x")
    assert (malformed.code, "looks like tsk_" in malformed.err) == (2, True)


async def test_run_prints_one_object_last_and_progress_elsewhere(hub: Any, repo: Path) -> None:
    ends(hub, "failed", reason="verification-failed", message="tests fail")
    done = await hub.cli(
        *("run", "--repo", str(repo), "--agent-cmd", "sh -c 'exit 0'", "--attempts", "2", "--json")
    )
    assert done.code == 1
    result = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert result["state"] == "failed"
    assert result["reason"] == "verification-failed"
    assert result["tokens"] == 12
    assert result["attempts"] == 1
    assert "agent-started" in done.err
    spec = hub.scheduler.submitted[0].spec
    assert spec.agent.argv == ("sh", "-c", "exit 0")
    assert spec.retry.attempts_max == 2


async def test_on_a_terminal_steps_stay_and_the_log_moves_below_them(hub: Any, repo: Path) -> None:
    ends(hub, "succeeded", title="\x1b]0;evil\x07")
    terminal, inside = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wfhub_client.cli"),
        *("run", "--repo", str(repo), "--prompt", "p"),
        env=hub.env(TERM="xterm"),
        stdout=inside,
        stderr=inside,
    )
    os.close(inside)
    shown = asyncio.get_running_loop().run_in_executor(None, drained, terminal)
    async with asyncio.timeout(60):
        assert await process.wait() == 0
        text = await shown
    os.close(terminal)
    for part in ("agent-started", "hello from it", "task running → succeeded", "wfhub logs tsk_"):
        assert part in text
    assert "\x1b]0;" not in text


def drained(terminal: int) -> str:
    data = b""
    try:
        while chunk := os.read(terminal, 65536):
            data += chunk
    except OSError:  # Linux: EIO when the other side is closed
        pass
    return data.decode()


async def test_run_says_what_a_task_waits_for(hub: Any, repo: Path) -> None:
    async def begun(task_id: str) -> None:
        await hub.scheduler.event(task_id, "task.submitted")

    hub.scheduler.on_submit = begun
    process = await hub.start_cli("run", "--repo", str(repo), "--prompt", "p", "--json")
    async with asyncio.timeout(60):
        await line_with(process.stderr, "waits: there is no active runner")
    process.kill()
    await process.communicate()


async def test_what_cannot_be_written_or_is_not_there_is_said(hub: Any) -> None:
    task_id, _ = await with_result(hub, state="succeeded")
    done = await hub.cli("artifacts", task_id, "result.patch", "-o", "nowhere/patch")
    assert (done.code, done.err) == (
        2,
        "wfhub: -o: cannot write nowhere/patch: No such file or directory\n",
    )
    assert (await hub.cli("list", "--project", "default")).code == 0
    mistyped = await hub.cli("list", "--project", "mistyped")
    assert (mistyped.code, "mistyped" in mistyped.err) == (1, True)


async def test_the_first_ctrl_c_cancels_and_follows_on_to_the_end(hub: Any, repo: Path) -> None:
    started = asyncio.Event()

    async def begun(task_id: str) -> None:
        await hub.scheduler.event(task_id, "task.submitted")
        started.set()

    async def cancelled(task_id: str) -> None:
        await hub.scheduler.finish(task_id, "cancelled", reason="cancelled")

    hub.scheduler.on_submit, hub.scheduler.on_cancel = begun, cancelled
    process = await hub.start_cli("run", "--repo", str(repo), "--prompt", "p", "--json")
    async with asyncio.timeout(60):
        await line_with(process.stderr, "submitted")
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert process.returncode == 1, err
    assert json.loads(out)["state"] == "cancelled"
    assert len(hub.scheduler.cancels) == 1


async def test_the_second_ctrl_c_leaves_the_task_running(hub: Any, repo: Path) -> None:
    async def begun(task_id: str) -> None:
        await hub.scheduler.event(task_id, "task.submitted")

    hub.scheduler.on_submit = begun
    process = await hub.start_cli("run", "--repo", str(repo), "--prompt", "p", "--json")
    async with asyncio.timeout(60):
        await line_with(process.stderr, "submitted")
        process.send_signal(signal.SIGINT)
        await line_with(process.stderr, "Ctrl-C again")
        await _cancel_arrived(hub)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert process.returncode == 130, err
    assert b"left; the task goes on" in err
    assert out == b""


async def _cancel_arrived(hub: Any) -> None:
    while not hub.scheduler.cancels:  # noqa: ASYNC110 - a double's list has no event
        await asyncio.sleep(0.02)


async def line_with(stream: asyncio.StreamReader, text: str) -> None:
    while line := await stream.readline():
        if text.encode() in line:
            return
    pytest.fail(f"no line with {text!r}")


async def test_detach_prints_the_id_and_returns_at_once(hub: Any, repo: Path) -> None:
    done = await hub.cli("run", "--repo", str(repo), "--prompt", "p", "--detach")
    assert done.code == 0
    task_id = done.out.strip()
    shown = await hub.cli("status", task_id)
    assert (shown.code, "ready" in shown.out) == (0, True)
    listed = await hub.cli("list", "--state", "ready", "--json")
    assert json.loads(listed.out)["task_id"] == task_id


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--repo", "nowhere", "--prompt", "p"), "there is no folder"),
        (("--repo", ".", "--prompt", "@nowhere"), "cannot read"),
        (("--repo", "."), "--prompt"),
        (("--repo", ".", "--prompt", "p", "--attempts", "0"), "--attempts"),
        (("--repo", ".", "--prompt", "p", "--base", "x" * 300), "body.base"),
    ],
)
async def test_what_cannot_be_right_exits_2_and_submits_nothing(
    hub: Any, arguments: tuple[str, ...], says: str
) -> None:
    done = await hub.cli("run", *arguments)
    assert done.code == 2
    assert says in done.err
    assert hub.scheduler.submitted == []


async def test_a_service_that_is_not_there_exits_3(hub: Any, repo: Path) -> None:
    done = await hub.cli("list", WFHUB_URL="http://127.0.0.1:9")
    assert done.code == 3
    assert "cannot reach http://127.0.0.1:9" in done.err


async def test_a_wrong_token_says_which_variable_to_set(hub: Any) -> None:
    done = await hub.cli("list", WFHUB_TOKEN="wht_wrong")
    assert done.code == 2
    assert "WFHUB_TOKEN" in done.err


async def test_logs_events_cancel_and_projects(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    attempt_id = await hub.scheduler.attempt(task_id)
    at = subjects.AttemptSubject("rnr_x", "prj_x", task_id, attempt_id)
    await hub.nats.jetstream().publish(subjects.log(at), b"a line\n")
    await hub.scheduler.event(task_id, "task.submitted")
    assert "a line" in (await hub.cli("logs", task_id)).out
    text = await hub.cli("logs", task_id, "--json")
    assert (text.code, text.out, "--events" in text.err) == (2, "", True)
    assert "submitted" in (await hub.cli("events", task_id, "--no-follow")).out
    cancelled = await hub.cli("cancel", task_id)
    assert (cancelled.code, cancelled.out) == (0, f"{task_id}: asked to cancel; it is running\n")
    assert hub.scheduler.cancels == [task_id]
    created = await hub.cli("project", "create", "team", "--running-limit", "3")
    assert "team" in created.out
    missing = await hub.cli("status", ids.new_task_id())
    assert (missing.code, "there is no task" in missing.err) == (1, True)


async def test_a_result_is_approved_or_declined(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="review")
    assert "wfhub approve" in (await hub.cli("status", task_id)).out
    assert (await hub.cli("approve", task_id)).code == 0
    assert (await hub.cli("decline", task_id, "--comment", "no")).code == 0
    said = [(each.decision, each.comment) for each in hub.scheduler.reviews]
    assert said == [("approved", ""), ("declined", "no")]
    running = await hub.scheduler.task(state="running")
    assert (await hub.cli("approve", running)).code == 1


async def test_help_lists_the_commands_of_other_packages_and_version_is_shown(hub: Any) -> None:
    shown = await hub.cli("--help")
    for name in ("run", "status", "proof", "up"):
        assert name in shown.out
    assert (await hub.cli("--version")).out.startswith("wfhub ")
    assert "completion" not in (await hub.cli("agent", "--help")).out  # of a program `agent`


async def test_a_passphrase_is_asked_of_nobody_who_is_not_there(hub: Any, tmp_path: Path) -> None:
    done = await hub.cli("backup", str(tmp_path / "kept.wfhub"), "--data", str(tmp_path / "data"))
    assert (done.code, done.out) == (1, "")
    assert "--passphrase-file" in done.err
    assert "Warning" not in done.err
