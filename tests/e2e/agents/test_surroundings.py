"""What a checkout and a task bring to real agents: notes for them, and MCP servers over stdio."""

import json
from pathlib import Path
from typing import Any

import agent_lab
import pytest
from wfhub_common.messages import AgentSpec, McpServer
from wfhub_local.agents.scripts import Turn

NOTE = "The house rule is heliotrope."
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
# How each agent names the tool of a server `words` to its model.
TOOLS = {
    "codex": "secret_word",
    "gemini-cli": "mcp_words_secret_word",
    "opencode": "words_secret_word",
    "qwen-code": "mcp__words__secret_word",
}
QUICK = ("builtin", "codex")


def each(*names: str) -> Any:
    marks = {name: [] if name in QUICK else [pytest.mark.agents] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in marks.items()])


@pytest.mark.timeout(400)
@each("builtin", "aider", "codex", "gemini-cli", "mini-swe-agent", "opencode", "qwen-code")
@pytest.mark.parametrize("file", ["AGENTS.md", "CLAUDE.md"])
def test_the_notes_of_a_repository_reach_the_model(
    name: str, file: str, toolchain: Path, tmp_path: Path
) -> None:
    worked = agent_lab.work(
        tmp_path, toolchain, AgentSpec(name=name, max_steps=1), [Turn("Done.")], {file: NOTE}
    )
    assert worked.asked, worked.output
    assert any(NOTE in json.dumps(request["messages"]) for request in worked.asked)


@pytest.mark.timeout(400)
@pytest.mark.agents  # the server's package is that of mini-swe-agent
@pytest.mark.parametrize("name", sorted(TOOLS))
@pytest.mark.parametrize("from_checkout", [False, True])
def test_an_mcp_server_is_started_in_the_sandbox_and_its_tool_is_called(
    name: str, from_checkout: bool, toolchain: Path, tmp_path: Path
) -> None:
    python = str(toolchain / "mini-swe-agent" / "bin" / "python")
    server = McpServer(argv=(python, "server.py"), env={"WORDS": "1"})
    files = {"server.py": SERVER}
    if from_checkout:
        entry = {"command": python, "args": ["server.py"], "env": {"WORDS": "1"}}
        files[".mcp.json"] = json.dumps({"mcpServers": {"words": entry}})
    spec = AgentSpec(name=name, mcp={} if from_checkout else {"words": server})
    turns = [Turn("I ask for the word.", TOOLS[name]), Turn("Done.")]
    worked = agent_lab.work(tmp_path, toolchain, spec, turns, files)
    results = [
        json.dumps(message["content"])
        for request in worked.asked
        for message in request["messages"]
        if message["role"] == "tool"
    ]
    offered = {tool["function"]["name"] for r in worked.asked for tool in r.get("tools") or ()}
    assert any(SECRET in result for result in results), (offered, worked.output)
    told = [event for event in worked.events if event["event"] == "tool-result"]
    assert any(SECRET in event["text"] for event in told)
