"""Agents as data: what a row and a task's spec become."""

import pytest
from wfhub_agent_runner.agents import archive, table
from wfhub_common.errors import Rejected
from wfhub_common.messages import AgentSpec


def plan(spec: AgentSpec, prompt: str = "Fix {it}.") -> table.AgentPlan:
    return table.plan(
        spec, prompt=prompt, python=("/usr/bin/python3",), gateway="http://127.0.0.1:1"
    )


def test_the_builtin_agent_is_a_file_run_by_the_toolchains_python() -> None:
    planned = plan(AgentSpec(model="m", max_steps=7))
    script = planned.argv[-1]
    assert planned.argv == ("/usr/bin/python3", "-I", "-S", script)
    assert planned.files[script] == archive.content()
    assert planned.files[planned.env["WFHUB_PROMPT_FILE"]] == b"Fix {it}."
    assert planned.env["OPENAI_BASE_URL"] == "http://127.0.0.1:1/v1"
    assert planned.env["WFHUB_MODEL"] == "m"
    assert planned.env["WFHUB_MAX_STEPS"] == "7"
    assert planned.parser == "wfhub-jsonl"


def test_a_model_that_was_not_named_is_left_to_the_gateway() -> None:
    assert "WFHUB_MODEL" not in plan(AgentSpec()).env


def test_any_argv_is_an_agent_and_is_taken_as_it_stands() -> None:
    planned = plan(AgentSpec(name="command", argv=("sh", "-c", "echo {prompt} > $HOME/x")))
    assert planned.argv == ("sh", "-c", "echo {prompt} > $HOME/x")
    assert planned.env["OPENAI_BASE_URL"] == "http://127.0.0.1:1/v1"
    assert list(planned.files) == [table.PROMPT_FILE]


def test_an_unknown_agent_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Rejected, match="builtin, command") as refused:
        plan(AgentSpec(name="nope"))
    assert refused.value.code == "agent-unknown"


def test_a_command_without_argv_is_refused() -> None:
    with pytest.raises(Rejected) as refused:
        plan(AgentSpec(name="command"))
    assert refused.value.code == "agent-needs-argv"


def test_a_row_of_templates_is_all_an_agent_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    row = table.AgentEntry(
        name="other",
        argv=("other", "run", "-m", "{model}", "{prompt}"),
        env={"BASE": "{gateway}", "KEY": "{key}"},
        files={"{home}/.other.json": b'{"a": 1}'},
    )
    monkeypatch.setattr(table, "ENTRIES", {"other": row})
    planned = plan(AgentSpec(name="other", model="m"))
    assert planned.argv == ("other", "run", "-m", "m", "Fix {it}.")
    assert planned.env == {"BASE": "http://127.0.0.1:1", "KEY": table.DUMMY_KEY}
    assert planned.files["/home/agent/.other.json"] == b'{"a": 1}'
