"""Every style of output becomes the same events; whatever else a program prints gives none.

The lines are as the programs printed them (shortened), goose's from its documentation.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_agent_runner.agents import parsers, table, telling

QWEN = [
    "Ripgrep not available",
    {"type": "system", "subtype": "init"},
    {"type": "assistant", "message": {"content": [{"type": "text", "text": "I look."}]}},
    {"type": "assistant", "message": {"content": [
        {"type": "tool_use", "id": "c1", "name": "shell", "input": {"command": "ls"}}]}},
    {"type": "user", "message": {"content": [
        {"type": "tool_result", "tool_use_id": "c1", "is_error": True, "content": "no"}]}},
    {"type": "assistant", "message": {"content": [{"type": "text", "text": "Done."}]}},
    {"type": "result", "is_error": False, "usage": {"input_tokens": 5, "output_tokens": 2}},
]  # fmt: skip
CODEX = [
    {"type": "thread.started", "thread_id": "x"},
    {"type": "turn.started"},
    {"type": "item.started", "item": {
        "id": "c1", "type": "command_execution", "command": "ls", "status": "in_progress"}},
    {"type": "item.completed", "item": {
        "id": "c1", "type": "command_execution", "aggregated_output": "no", "status": "failed"}},
    {"type": "item.completed", "item": {"id": "i2", "type": "agent_message", "text": "Done."}},
    {"type": "turn.completed", "usage": {"input_tokens": 5, "output_tokens": 2}},
]  # fmt: skip
GEMINI = [
    "YOLO mode is enabled.",
    {"type": "init", "session_id": "x"},
    {"type": "message", "role": "user", "content": "prompt"},
    {"type": "message", "role": "assistant", "content": "I ", "delta": True},
    {"type": "message", "role": "assistant", "content": "look.", "delta": True},
    {"type": "tool_use", "tool_id": "c1", "tool_name": "ls", "parameters": {"path": "."}},
    {"type": "tool_result", "tool_id": "c1", "status": "error", "error": {"message": "no"}},
    {"type": "message", "role": "assistant", "content": "Done.", "delta": True},
    {"type": "result", "status": "success", "stats": {"input_tokens": 5, "output_tokens": 2}},
]
OPENCODE = [
    {"type": "step_start", "part": {}},
    {"type": "text", "part": {"text": "I look."}},
    {"type": "tool_use", "part": {
        "tool": "bash", "callID": "c1",
        "state": {"status": "error", "input": {"command": "ls"}, "error": "no"}}},
    {"type": "step_finish", "part": {"tokens": {"input": 5, "output": 2}}},
    {"type": "error", "error": {"name": "APIError", "data": {"message": "Gone"}}},
]  # fmt: skip
GOOSE = [
    {"type": "message", "message": {"role": "assistant", "content": [
        {"type": "text", "text": "I look."},
        {"type": "toolRequest", "id": "c1", "toolCall": {
            "status": "success", "value": {"name": "shell", "arguments": {"command": "ls"}}}}]}},
    {"type": "message", "message": {"role": "user", "content": [
        {"type": "toolResponse", "id": "c1", "toolResult": {"status": "error", "error": "no"}}]}},
    {"type": "complete", "total_tokens": 7},
]  # fmt: skip
MINI = [
    "This is mini-swe-agent version 2.4.6.",
    {"role": "system", "content": "…"},
    {"role": "assistant", "content": "I look.", "tool_calls": [
        {"id": "c1", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}],
     "extra": {"response": {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}}},
    {"role": "tool", "tool_call_id": "c1", "content": "no", "extra": {"returncode": 1}},
    {"role": "exit", "content": "too long", "extra": {"exit_status": "LimitsExceeded"}},
]  # fmt: skip
BUILTIN = [
    {"type": "step", "number": 1, "of": 50},
    {"type": "message", "text": "I look."},
    {"type": "tool_call", "id": "c1", "name": "run_command", "arguments": '{"command": "ls"}'},
    {"type": "tool_result", "id": "c1", "name": "run_command", "ok": False, "output": "no"},
    {"type": "told", "text": "hurry"},
]
AIDER = [
    "Aider v0.86.2",
    "Model: openai/default with diff edit format",
    "I look.",
    "Tokens: 1.2k sent, 5 received.",
    "Applied edit to total.sh",
    "litellm.AuthenticationError: no key",
]


def events(style: str, lines: list[Any]) -> list[dict[str, Any]]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return [json.loads(event.line()) for event in parsers.events_of(style, text.encode())]


@pytest.mark.parametrize(
    ("style", "lines", "kinds"),
    [
        ("claude-jsonl", QWEN, "step message tool-call tool-result step message usage"),
        ("codex-jsonl", CODEX, "step tool-call tool-result message usage"),
        ("gemini-jsonl", GEMINI, "step message tool-call tool-result step message usage"),
        ("opencode-jsonl", OPENCODE, "step message tool-call tool-result usage error"),
        ("goose-jsonl", GOOSE, "step message tool-call tool-result usage"),
        ("mini-messages", MINI, "step message tool-call usage tool-result error"),
        ("wfhub-jsonl", BUILTIN, "step message tool-call tool-result told"),
        ("aider-text", AIDER, "step message usage tool-call tool-result error"),
        ("none", ["anything"], ""),
    ],
)
def test_a_style_becomes_events(style: str, lines: list[Any], kinds: str) -> None:
    found = events(style, lines)
    assert " ".join(event["event"] for event in found) == kinds
    for event in found:
        match event["event"]:
            case "tool-result" if style != "aider-text":
                assert (event["id"], event["ok"], event["text"]) == ("c1", False, "no")
            case "tool-call" if style != "aider-text":
                assert event["id"] == "c1"
                assert "ls" in event["arguments"] or event["name"] == "ls"


def test_every_style_in_the_table_is_known() -> None:
    assert {entry.parser for entry in table.ENTRIES.values()} == parsers.STYLES.keys()


def test_numbers_of_tokens_are_read() -> None:
    assert [e for e in events("aider-text", AIDER) if e["event"] == "usage"] == [
        {"event": "usage", "input_tokens": 1200, "output_tokens": 5}
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["type", "role", "item", "part", "message", "content", "state", "id",
                         "extra", "toolCall", "usage", "text", "tool_calls", "error"]) | st.text(),
        inner | st.sampled_from(["assistant", "user", "tool", "tool_use", "result", "error",
                                 "message", "text", "item.completed", "tool_result", "exit"]),
    ),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.parametrize("style", sorted(parsers.STYLES))
@given(values=st.lists(JSON, max_size=5), noise=st.binary(max_size=50))
def test_no_output_is_too_strange_to_read(style: str, values: list[Any], noise: bytes) -> None:
    text = b"\n".join([*(json.dumps(value).encode() for value in values), noise, b"{" * 5000])
    for event in parsers.events_of(style, text):
        json.loads(event.line())


def test_a_long_text_keeps_head_and_tail(tmp_path: Any) -> None:
    line = json.dumps({"type": "message", "text": "a" * 50_000 + "z"})
    log, into = tmp_path / "agent.log", tmp_path / "events"
    log.write_text(f"{line}\n")
    assert telling.write("wfhub-jsonl", log, into) == 1
    (event,) = map(json.loads, into.read_text().splitlines())
    assert len(event["text"]) < 9_000
    assert event["text"].startswith("aaa")
    assert event["text"].endswith("z")
