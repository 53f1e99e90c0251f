"""The built-in agent's session with a model, over real HTTP and as a process of its own."""

import json
from pathlib import Path

import pytest

from .conftest import ModelDouble, Reply, RunAgent, finish, streamed, whole


def test_a_session_changes_files_and_ends_when_the_model_calls_finish(
    run_agent: RunAgent, model: ModelDouble, workspace: Path
) -> None:
    (workspace / "sum.py").write_text("def total(a, b):\n    return a - b\n")
    ran = run_agent(
        whole("I look first.", calls=(("read_file", {"path": "sum.py"}),)),
        whole(calls=(("patch_file", {"path": "sum.py", "search": "a - b", "replace": "a + b"}),)),
        whole(calls=(("run_command", {"command": "cat sum.py; exit 3"}),)),
        finish("adds now"),
    )
    assert ran.exit_code == 0
    assert (workspace / "sum.py").read_text() == "def total(a, b):\n    return a + b\n"
    assert ran.outputs() == [
        "sum.py, lines 1 to 2 of 2:\n1\tdef total(a, b):\n2\t    return a - b",
        "patched sum.py at line 2",
        "exit code: 3\ndef total(a, b):\n    return a + b\n",
        "adds now",
    ]
    end = ran.events[-1]
    assert end["type"] == "finish"
    assert end["summary"] == "adds now"
    assert end["prompt_tokens"] == 40
    assert ran.of("message") == [{"type": "message", "text": "I look first."}]
    assert [step["number"] for step in ran.of("step")] == [1, 2, 3, 4]


def test_requests_carry_the_whole_history_in_the_wire_format(
    run_agent: RunAgent, model: ModelDouble
) -> None:
    run_agent(whole(calls=(("run_command", {"command": "true"}),)), finish())
    first, second = model.requests
    assert first["path"] == "/v1/chat/completions"
    assert first["model"] == "some-model"
    assert first["stream"] is True
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert first["messages"][1]["content"] == "Fix it.\n"
    assert {tool["function"]["name"] for tool in first["tools"]} >= {"run_command", "finish"}
    assert second["messages"][:2] == first["messages"]
    assert second["messages"][2] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call_0",
                "type": "function",
                "function": {"name": "run_command", "arguments": '{"command": "true"}'},
            }
        ],
    }
    assert second["messages"][3] == {
        "role": "tool",
        "tool_call_id": "call_0",
        "content": "exit code: 0\n",
    }
    assert model.headers[0]["Authorization"] == "Bearer dummy"


def test_two_runs_on_the_same_workspace_ask_the_same(
    run_agent: RunAgent, model: ModelDouble, workspace: Path
) -> None:
    asked = []
    for _ in range(2):
        run_agent(
            whole(calls=(("write_file", {"path": "a/b.txt", "content": "x"}),)),
            whole(calls=(("run_command", {"command": "ls -R; pwd >/dev/null"}),)),
            finish(),
        )
        asked.append(json.dumps(model.requests))
        model.requests.clear()
    assert asked[0] == asked[1]
    assert str(workspace) not in asked[0]


def test_streamed_tool_calls_are_put_together_from_their_pieces(
    run_agent: RunAgent, workspace: Path
) -> None:
    def piece(index: int, **function: str) -> dict[str, object]:
        return {"index": index, "function": function}

    first = {"index": 0, "id": "call_a", "type": "function", "function": {"name": "write_file"}}
    second = {"index": 1, "id": "call_b", "function": {"name": "write_file", "arguments": ""}}
    ran = run_agent(
        streamed(
            {"role": "assistant", "content": "two "},
            {"content": "files"},
            {"tool_calls": [first]},
            {"tool_calls": [piece(0, arguments='{"path": "one", "con')]},
            {"tool_calls": [second, piece(0, arguments='tent": "1"}')]},
            {"tool_calls": [piece(1, arguments='{"path": "two", "content": "2"}')]},
        ),
        finish(),
    )
    assert ran.exit_code == 0
    assert (workspace / "one").read_text() == "1"
    assert (workspace / "two").read_text() == "2"
    assert ran.of("message")[0]["text"] == "two files"
    assert ran.of("usage")[0] == {"type": "usage", "prompt_tokens": 10, "completion_tokens": 5}


def test_a_stream_that_breaks_off_is_asked_for_again(
    run_agent: RunAgent, model: ModelDouble, workspace: Path
) -> None:
    ran = run_agent(
        streamed({"content": "half"}, end=b""),
        streamed({"content": "h"}, cut=True, end=b""),
        finish(),
    )
    assert ran.exit_code == 0
    assert [error["code"] for error in ran.of("error")] == ["cut-off", "unreachable"] or [
        error["code"] for error in ran.of("error")
    ] == ["cut-off", "cut-off"]
    assert model.requests[0] == model.requests[2]


def test_the_step_limit_ends_the_session(run_agent: RunAgent) -> None:
    look = whole(calls=(("run_command", {"command": "true"}),))
    ran = run_agent(look, look, look, WFHUB_MAX_STEPS="2")
    assert ran.exit_code == 3
    assert ran.events[-1]["reason"] == "step-limit"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(run_agent: RunAgent, model: ModelDouble, status: int) -> None:
    busy = Reply(status, {"Retry-After": "0"}, (b"busy",))
    ran = run_agent(busy, busy, finish())
    assert ran.exit_code == 0
    assert len(model.requests) == 3
    assert [error["code"] for error in ran.of("error")] == [f"http-{status}"] * 2


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(401, body=(b"no",)), "unauthorized"),
        (Reply(403, body=(b"no",)), "unauthorized"),
        (Reply(404, body=(b"no such exchange",)), "http-404"),
        (Reply(402, body=(b"pay",)), "budget"),
        (Reply(429, body=(b'{"code": "budget-exceeded"}',)), "budget"),
        (Reply(429, body=(b'{"error": {"code": "insufficient_quota"}}',)), "budget"),
        (streamed(end=b'data: {"error": {"code": "budget-exceeded"}}\n\n'), "model-error"),
    ],
)
def test_a_refusal_ends_the_session_at_once(
    run_agent: RunAgent, model: ModelDouble, reply: Reply, code: str
) -> None:
    ran = run_agent(reply)
    assert ran.exit_code == 4
    assert len(model.requests) == 1
    assert ran.events[-1]["reason"] == code


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"choices": [[]]}', b'{"choices": [{"message": "hello"}]}']
)
def test_an_answer_of_another_shape_is_asked_for_again(run_agent: RunAgent, body: bytes) -> None:
    ran = run_agent(Reply(headers={"Content-Type": "application/json"}, body=(body,)), finish())
    assert ran.exit_code == 0
    assert len(ran.of("error")) == 1


def test_a_server_that_never_recovers_is_given_up(run_agent: RunAgent, model: ModelDouble) -> None:
    ran = run_agent(*[Reply(500, body=(b"broken",))] * 10)
    assert ran.exit_code == 4
    assert len(model.requests) == 6


def test_no_server_at_all_is_model_unreachable(run_agent: RunAgent) -> None:
    ran = run_agent(OPENAI_BASE_URL="http://127.0.0.1:9/v1", WFHUB_RETRY_BASE_S="0.001")
    assert ran.exit_code == 4
    assert ran.events[-1]["reason"] == "unreachable"


def test_bad_settings_are_named(run_agent: RunAgent) -> None:
    ran = run_agent(WFHUB_PROMPT_FILE="/does/not/exist")
    assert ran.exit_code == 5
    assert "/does/not/exist" in ran.events[-1]["summary"]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("run_command", '{"command": ', "not JSON"),
        ("run_command", "[1]", "must be a JSON object"),
        ("run_command", {}, "'command' is missing"),
        ("run_command", {"command": "ls", "shell": "zsh"}, "unknown argument 'shell'"),
        ("run_command", {"command": 5}, "must be of type string"),
        ("run_command", {"command": "ls", "timeout_s": True}, "must be of type integer"),
        ("run_command", {"command": "a\0b"}, "error: "),
        ("read_file", {"path": "missing.txt"}, "missing.txt: No such file"),
        ("delete_all", {}, "no tool is named 'delete_all'"),
    ],
)
def test_a_mistaken_call_is_answered_to_the_model(
    run_agent: RunAgent, model: ModelDouble, name: str, arguments: object, says: str
) -> None:
    ran = run_agent(whole(calls=((name, arguments),)), finish())
    assert ran.exit_code == 0
    result = model.requests[1]["messages"][-1]
    assert result["role"] == "tool"
    assert result["content"].startswith("error: ")
    assert says in result["content"]
    assert ran.of("tool_result")[0]["ok"] is False
    # What goes back as history is always sound JSON.
    json.loads(model.requests[1]["messages"][2]["tool_calls"][0]["function"]["arguments"])


def test_a_call_cut_at_the_length_limit_says_so(run_agent: RunAgent, model: ModelDouble) -> None:
    cut = whole(calls=(("write_file", '{"path": "a", "content": "lo'),), finish_reason="length")
    run_agent(cut, finish())
    assert "send less at a time" in model.requests[1]["messages"][-1]["content"]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "write_file", "arguments": {"path": "f", "content": "1"}}',
        'Now:\n```json\n{"name": "write_file", "parameters": {"path": "f", "content": "1"}}\n```',
        '<tool_call>\n{"name": "write_file", "arguments": {"path": "f", "content": "1"}}\n'
        "</tool_call>",
    ],
)
def test_a_call_printed_as_text_is_carried_out(
    run_agent: RunAgent, model: ModelDouble, workspace: Path, text: str
) -> None:
    ran = run_agent(whole(text), finish())
    assert ran.exit_code == 0
    assert (workspace / "f").read_text() == "1"
    assert model.requests[1]["messages"][-1] == {
        "role": "user",
        "content": "Result of write_file:\nwrote 1 bytes to f",
    }


def test_a_model_that_only_talks_is_nudged_and_then_done(
    run_agent: RunAgent, model: ModelDouble
) -> None:
    ran = run_agent(*[whole("All is well.")] * 5)
    assert ran.exit_code == 0
    assert len(model.requests) == 3
    assert ran.events[-1]["reason"] == "no-more-calls"
    assert ran.events[-1]["summary"] == "All is well."


def test_calls_after_finish_are_not_carried_out(run_agent: RunAgent, workspace: Path) -> None:
    write = ("write_file", {"path": "late", "content": ""})
    ran = run_agent(whole(calls=(("finish", {"summary": "ok"}), write)))
    assert ran.exit_code == 0
    assert not (workspace / "late").exists()


def test_results_of_one_answer_get_short_once_it_has_had_its_share(
    run_agent: RunAgent, model: ModelDouble, workspace: Path
) -> None:
    (workspace / "long").write_text("x\n" * 50_000)
    read = ("read_file", {"path": "long", "line_count": 50_000})
    run_agent(whole(calls=(read,) * 32), finish())
    sizes = [len(m["content"]) for m in model.requests[1]["messages"] if m["role"] == "tool"]
    assert sizes[0] > 15_000
    assert sizes[-1] < 1_200
    assert sum(sizes) < 150_000


def test_after_an_edit_that_failed_later_ones_of_that_file_are_not_made(
    run_agent: RunAgent, workspace: Path
) -> None:
    (workspace / "f").write_text("one\ntwo\n")
    (workspace / "g").write_text("one\n")
    ran = run_agent(
        whole(
            calls=(
                ("patch_file", {"path": "f", "search": "three", "replace": "3"}),
                ("patch_file", {"path": "./f", "search": "two", "replace": "2"}),
                ("patch_file", {"path": "g", "search": "one", "replace": "1"}),
            )
        ),
        whole(calls=(("patch_file", {"path": "f", "search": "two", "replace": "2"}),)),
        finish(),
    )
    assert [r["ok"] for r in ran.of("tool_result")] == [False, False, True, True, True]
    assert (workspace / "f").read_text() == "one\n2\n"
    assert (workspace / "g").read_text() == "1\n"
