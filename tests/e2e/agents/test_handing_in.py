"""Real agents that read no messages while they work, and would go on for ever: told to hand in,
they end by themselves, and what they have is verified and published."""

import json
from pathlib import Path
from typing import Any

import pytest
from wfhub_llm_gateway.last_word import SAID
from wfhub_local.agents import installing, selftest
from wfhub_local.agents.make_cassette import completion_of
from wfhub_local.agents.scripts import Turn
from wfhub_local.demo import scripted_model

from ..conftest import Stack, eventually, git, start  # noqa: TID252 - there is no other name of it

# The program, and the call of its own tool by which a command is run.
SHELLS = {
    "codex": ("codex", "exec_command", "cmd"),
    "mini-swe-agent": ("mini", "bash", "command"),
}
QUICK = {"codex"}


def status(stack: Stack, task: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(stack.wfhub("status", task, "--json").stdout)
    return value


@pytest.mark.timeout(600)  # a stack of its own, and a program that takes long to start
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.agents]) for n in sorted(SHELLS)],
)
def test_an_agent_that_does_not_listen_ends_by_itself_when_it_is_to_hand_in(
    name: str,
    toolchain: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    repository: Path,
) -> None:
    program, tool, argument = SHELLS[name]
    assert program in installing.programs(toolchain), f"`make agents` installs {name}"
    turns = [Turn(f"Step {n}.", tool, {argument: f"echo {n} >> steps"}) for n in range(500)]
    answers = [completion_of(turn, n) for n, turn in enumerate(turns, 1)]
    aside = completion_of(Turn("Nothing to add."), 0)
    with scripted_model.serving(answers, aside=aside) as script:
        provider = {"LLM_PROVIDER": "openai", "LLM_BASE_URL": script.url}
        data = tmp_path_factory.mktemp(name) / "data"
        running = start(data, "--toolchain", str(toolchain), ready_s=120, **provider)
        try:
            done = running.wfhub(
                "run", "--json", "--detach", "--repo", str(repository), "--prompt", "Count.",
                "--agent", name, "--verify", "test -s steps",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            task = json.loads(done.stdout.strip().splitlines()[-1])["task_id"]
            eventually(lambda: len(script.requests) >= 4, within_s=120)
            assert running.wfhub("hand-in", task).returncode == 0
            eventually(lambda: status(running, task)["state"] == "succeeded", within_s=60)
            asked = len(script.requests)
            shown = running.wfhub("logs", task, "--events", "--json").stdout
            proof = tmp_path / "proof.json"
            exported = running.wfhub("proof", "export", task, f"--output={proof}")
            assert exported.returncode == 0, exported.stderr
        finally:
            running.process.terminate()
            assert running.process.wait(60) == 0
    changed = git("diff", "--name-only", "main", f"wfhub/{task}", cwd=repository)
    assert changed.split() == ["steps"]
    assert SAID in shown
    gateway = selftest.observations(json.loads(proof.read_text()))["gateway"]
    answered_by = [exchange["provider"] for exchange in gateway["exchanges"]]
    assert "hand-in" in answered_by
    assert asked == len(answered_by) - answered_by.count("hand-in")
