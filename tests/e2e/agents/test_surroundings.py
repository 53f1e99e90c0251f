"""What a checkout and a task bring to real agents: notes for them, and MCP servers over stdio."""

import json
from pathlib import Path
from typing import Any

import agent_lab
import pytest
from wfhub_common.messages import AgentSpec, McpServer
from wfhub_local.agents.scripts import Turn

NOTE = "The house rule is heliotrope."
OTHER_NOTE = "And the other one is periwinkle."
SECRET = "the word is pomegranate"
SERVER = f"""\
from mcp.server.mcpserver import MCPServer

server = MCPServer("words")


@server.tool()
def secret_word() -> str:
    "Tells the secret word."
    return {SECRET!r}


server.run()
"""
# How each agent has its model call the tool `secret_word` of a server `words`.
CALLS = {
    # A namespace and a name, which the gateway puts together for Chat Completions.
    "codex": [Turn("", "mcp__wordssecret_word")],
    "gemini-cli": [Turn("", "mcp_words_secret_word")],
    "opencode": [Turn("", "words_secret_word")],
    "qwen-code": [
        Turn("", "tool_search", {"query": "select:mcp__words__secret_word"}),
        Turn("", "tool_call", {"name": "mcp__words__secret_word", "arguments": {}}),
    ],
}
IN_STACK = {"claude-code", "codex", "gemini-cli"}  # their formats are the gateway's to translate
QUICK = {"builtin", "codex"}


def each(*names: str) -> Any:
    marks = {name: [] if name in QUICK else [pytest.mark.agents] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in marks.items()])


@pytest.mark.timeout(400)
@each(
    "builtin",
    "aider",
    "claude-code",
    "codex",
    "gemini-cli",
    "mini-swe-agent",
    "opencode",
    "qwen-code",
)
def test_the_notes_of_a_repository_reach_the_model(
    name: str, toolchain: Path, tmp_path: Path
) -> None:
    files = {"AGENTS.md": NOTE, "CLAUDE.md": OTHER_NOTE}
    turns = [Turn("Done.")]
    if name in IN_STACK:
        asked, _ = agent_lab.work_in_stack(tmp_path, toolchain, name, turns, files)
        output = ""
    else:
        spec = AgentSpec(name=name, max_steps=1)
        worked = agent_lab.work(tmp_path, toolchain, spec, turns, files)
        asked, output = worked.asked, worked.output
    assert asked, output
    said = "".join(json.dumps(request["messages"]) for request in asked)
    assert NOTE in said
    assert OTHER_NOTE in said


@pytest.mark.timeout(400)
@pytest.mark.agents  # the server's package is that of mini-swe-agent
@pytest.mark.parametrize("name", sorted(CALLS))
def test_an_mcp_server_of_the_repository_runs_in_the_sandbox_and_its_tool_is_called(
    name: str, toolchain: Path, tmp_path: Path
) -> None:
    entry = {"command": python_of(toolchain), "args": ["server.py"], "env": {"WORDS": "1"}}
    files = {"server.py": SERVER, ".mcp.json": json.dumps({"mcpServers": {"words": entry}})}
    turns = [*CALLS[name], Turn("Done.")]
    if name in IN_STACK:
        asked, outcome = agent_lab.work_in_stack(tmp_path, toolchain, name, turns, files)
        events = list(outcome.events)
    else:
        worked = agent_lab.work(tmp_path, toolchain, AgentSpec(name=name), turns, files)
        asked, events = worked.asked, worked.events
    check_called(asked, events)


@pytest.mark.timeout(400)
@pytest.mark.agents
def test_an_mcp_server_of_the_task_is_one_too(toolchain: Path, tmp_path: Path) -> None:
    server = McpServer(argv=(python_of(toolchain), "server.py"), env={"WORDS": "1"})
    spec = AgentSpec(name="opencode", mcp={"words": server})
    turns = [*CALLS["opencode"], Turn("Done.")]
    worked = agent_lab.work(tmp_path, toolchain, spec, turns, {"server.py": SERVER})
    check_called(worked.asked, worked.events)


def python_of(toolchain: Path) -> str:
    return str(toolchain / "mini-swe-agent" / "bin" / "python")


def check_called(asked: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
    offered = {tool["function"]["name"] for r in asked for tool in r.get("tools") or ()}
    results = [
        json.dumps(message["content"])
        for request in asked
        for message in request["messages"]
        if message["role"] == "tool"
    ]
    assert any(SECRET in result for result in results), (offered, results, events)
    told = [event for event in events if event["event"] == "tool-result"]
    assert any(SECRET in event["text"] for event in told), events
