"""Each agent's real program, in the sandbox, through the gateway, on its cassette: from a task to a
published branch with a proof. What `wfhub agent test` does, looked at closely."""

import os
import subprocess
from pathlib import Path

import pytest
from wfhub_local.agents import installing, selftest, task
from wfhub_local.agents.scripts import SCRIPTS

WIRES = {
    "aider": "chat-completions",
    "builtin": "chat-completions",
    "claude-code": "messages",
    "codex": "responses",
    "gemini-cli": "gemini",
    "mini-swe-agent": "chat-completions",
    "opencode": "chat-completions",
    "qwen-code": "chat-completions",
}
PROGRAMS = {
    "claude-code": "claude",
    "gemini-cli": "gemini",
    "mini-swe-agent": "mini",
    "qwen-code": "qwen",
}
NO_TOOLS = {"aider"}  # edits are blocks in what its model says

# `make test` takes those that are quick to install and to start; `make agents-test` all.
QUICK = ("builtin", "codex")


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_script_is_played_here() -> None:
    assert WIRES.keys() == SCRIPTS.keys()


@pytest.mark.timeout(600)
def test_the_built_in_agent_is_tested_where_nothing_was_installed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nothing = tmp_path / "agents"
    assert selftest.run("builtin", nothing, os.environ) == 0, capfd.readouterr()
    with pytest.raises(SystemExit, match="wfhub agent install codex"):
        selftest.run("codex", nothing, os.environ)


@pytest.mark.timeout(600)  # its own stack, and programs that take long to start
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.agents]) for n in sorted(WIRES)],
)
def test_an_agent_works_to_a_verified_and_published_branch(
    name: str, toolchain: Path, folder: Path
) -> None:
    program = PROGRAMS.get(name, name)
    if name != "builtin":
        assert program in installing.programs(toolchain), f"`make agents` installs {name}"
    at = selftest.Folder(folder, toolchain)
    cassette = Path(str(selftest.CASSETTES)) / f"{name}.cassette.jsonl"
    provider = {"LLM_PROVIDER": "replay", "LLM_CASSETTE": str(cassette)}
    outcome = selftest.played(name, at, provider, os.environ)

    assert outcome.task["state"] == "succeeded", outcome.task
    assert outcome.task["verdict"] == "passed"
    branch = outcome.task["branch"]
    assert git(at.repository, "diff", "--name-only", "main", branch) == "total.sh"
    repaired = git(at.repository, "show", f"{branch}:total.sh")
    assert repaired == task.FILES["total.sh"].replace(task.DEFECT, task.REPAIR).strip()

    runner = outcome.observed
    assert runner["agent"] == name
    assert runner["agent_details"]["wire"] == WIRES[name]
    locked = runner["agent_details"].get("version_locked", runner["agent_version"])
    assert runner["agent_version"] == locked != ""
    assert outcome.exchanges >= len(SCRIPTS[name])
    assert outcome.replayed == outcome.exchanges

    events = outcome.events
    assert sum(event["event"] == "step" for event in events) >= 1
    assert any("takes the place of the sum" in event.get("text", "") for event in events)
    called = [event for event in events if event["event"] == "tool-call"]
    answered = [event for event in events if event["event"] == "tool-result"]
    tools = sum(bool(turn.tool) for turn in SCRIPTS[name])
    assert len(called) >= (1 if name in NO_TOOLS else tools)
    assert {event["id"] for event in answered} == {event["id"] for event in called}
    if name not in NO_TOOLS:
        assert any("total of 1 2 3 is 3, not 6" in event["text"] for event in answered)
        assert any("as it should be" in event["text"] for event in answered)
