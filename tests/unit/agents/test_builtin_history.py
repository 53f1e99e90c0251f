"""The built-in agent's history: what gives way when the model's context is full."""

import json
from pathlib import Path

import pytest

from .conftest import ModelDouble, Reply, RunAgent, finish, whole

READ = ("read_file", {"path": "long", "line_count": 1000})
FULL = {
    "llama.cpp": (400, {"error": {"code": 400, "type": "exceed_context_size_error"}}),
    "OpenAI": (400, {"error": {"code": "context_length_exceeded", "message": "too long"}}),
    "Anthropic": (400, {"type": "error", "error": {"message": "prompt is too long: 9 > 8"}}),
}


@pytest.fixture(autouse=True)
def long(workspace: Path) -> None:
    (workspace / "long").write_text("line of a file\n" * 400)


def sent_chars(model: ModelDouble) -> list[int]:
    return [len(json.dumps(request["messages"])) for request in model.requests]


def test_old_outputs_are_left_out_before_the_context_is_full(
    run_agent: RunAgent, model: ModelDouble
) -> None:
    ran = run_agent(*[whole(calls=(READ,))] * 8, finish(), WFHUB_CONTEXT_TOKENS="12000")
    assert ran.exit_code == 0
    assert ran.of("compaction")
    assert max(sent_chars(model)) < 12_000 * 3
    last = [m["content"] for m in model.requests[-1]["messages"] if m["role"] == "tool"]
    assert len(last[0]) < 600
    assert len(last[-1]) > 4_000


def test_what_does_not_fit_even_so_is_summed_up_by_the_model_beside_the_plan(
    run_agent: RunAgent, model: ModelDouble
) -> None:
    talk = whole("I think about it at length. " * 300, calls=(READ,))
    plan = whole(calls=(("update_plan", {"plan": "1. read 2. mend"}),))
    ran = run_agent(
        plan,
        *[talk] * 2,
        whole("I read the file two times: it is one line, again and again."),
        finish(),
        WFHUB_CONTEXT_TOKENS="9000",
    )
    assert ran.exit_code == 0
    assert "Do not call a tool" in model.requests[3]["messages"][-1]["content"]
    after = model.requests[4]["messages"]
    assert [m["role"] for m in after[:3]] == ["system", "user", "user"]
    assert "two times" in after[2]["content"]
    assert "1. read 2. mend" in after[2]["content"]
    # An answer and what was given for it stay together.
    for number, message in enumerate(after):
        if message["role"] == "tool":
            assert after[number - 1]["role"] in ("assistant", "tool")


@pytest.mark.parametrize("server", FULL)
def test_a_server_that_says_the_context_is_full_is_believed(
    run_agent: RunAgent, model: ModelDouble, server: str
) -> None:
    status, body = FULL[server]
    full = Reply(status, body=(json.dumps(body).encode(),))
    ran = run_agent(*[whole(calls=(READ,))] * 6, full, whole("So far so good."), finish())
    assert ran.exit_code == 0
    assert len(ran.of("compaction")) == 1
    refused, tried_again = sent_chars(model)[6], sent_chars(model)[-1]
    assert tried_again < refused * 0.6


def test_a_server_that_takes_nothing_ends_the_session(
    run_agent: RunAgent, model: ModelDouble
) -> None:
    status, body = FULL["OpenAI"]
    ran = run_agent(*[Reply(status, body=(json.dumps(body).encode(),))] * 30)
    assert ran.exit_code == 4
    assert ran.events[-1]["reason"] == "context-full"
    assert len(model.requests) < 15
