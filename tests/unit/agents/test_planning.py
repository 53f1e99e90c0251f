"""What a row, a task and a checkout become: configuration, context, MCP servers."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from wfhub_agent_runner.agents import configs, context, planning, table
from wfhub_agent_runner.agents.entry import Config, Install
from wfhub_agent_runner.agents.planning import Surroundings
from wfhub_agent_runner.agents.probing import version_in
from wfhub_agent_runner.sandbox.arguments import checked_file
from wfhub_common.errors import Rejected
from wfhub_common.messages import AgentSpec, McpServer

SERVER = McpServer(argv=("python3", "server.py", "--x"), env={"KEY": 'a "b" ü'})
NAMED = sorted(set(table.ENTRIES) - {table.COMMAND})


def plan(name: str, prompt: str = "Fix it.", **fields: Any) -> planning.AgentPlan:
    around, servers = fields.pop("around", None), fields.pop("servers", {})
    spec = AgentSpec(name=name, **fields)
    return planning.plan(
        spec, prompt=prompt, python=("/usr/bin/python3",), around=around, servers=servers
    )


@pytest.mark.parametrize("name", NAMED)
def test_every_row_makes_a_plan_for_the_sandbox(name: str) -> None:
    planned = plan(name, model="some/model")
    assert planned.argv[0]
    for path in planned.files:
        assert checked_file(path) == path
    said = " ".join([*planned.argv, *planned.env.values()]) + str(planned.files)
    assert "127.0.0.1:8090" in said, "it must be told where the gateway is"
    assert "{" not in "".join(planned.env.values())


@pytest.mark.parametrize("name", NAMED)
def test_no_prompt_is_taken_for_an_option(name: str) -> None:
    argv = plan(name, prompt="--version").argv
    if "--version" in argv:
        before = argv[argv.index("--version") - 1]
        assert before == "--" or argv[:2] == ("/bin/sh", "-c")


@pytest.mark.parametrize("name", NAMED)
def test_a_prompt_too_long_for_an_argument_is_in_its_file(name: str) -> None:
    planned = plan(name, prompt="ü" * 100_000)
    assert max(len(word.encode()) for word in planned.argv) < 128 * 1024
    assert planned.files[table.PROMPT_FILE].decode() == "ü" * 100_000


@pytest.mark.parametrize("name", [n for n in NAMED if table.ENTRIES[n].mcp])
def test_mcp_servers_stand_in_the_agents_own_configuration(name: str) -> None:
    planned = plan(name, mcp={"notes": SERVER})
    (found,) = [text for text in map(bytes.decode, planned.files.values()) if '"notes"' in text or
                "notes]" in text]  # fmt: skip
    assert "server.py" in found
    value = tomllib.loads(found) if name == "codex" else json.loads(found)
    assert 'a "b" ü' in str(value)


@pytest.mark.parametrize("name", [n for n in NAMED if not table.ENTRIES[n].mcp])
def test_an_agent_without_mcp_refuses_servers_and_names_those_that_have_them(name: str) -> None:
    with pytest.raises(Rejected, match=r"choose one of: .*codex") as refused:
        plan(name, mcp={"notes": SERVER})
    assert refused.value.code == "agent-without-mcp"


def test_a_checkouts_servers_are_used_but_the_tasks_go_first() -> None:
    own = McpServer(argv=("theirs",))
    around = Surroundings(servers={"notes": own, "other": own})
    assert plan("codex", mcp={"notes": SERVER}, around=around).servers == {
        "notes": SERVER,
        "other": own,
    }
    assert plan("aider", around=around).servers == {}


def test_a_projects_servers_go_between_the_checkouts_and_the_tasks() -> None:
    checkouts, projects = McpServer(argv=("checkout",)), McpServer(argv=("project",))
    around = Surroundings(servers=dict.fromkeys(("a", "b", "c"), checkouts))
    found = plan("codex", mcp={"a": SERVER}, servers={"a": projects, "b": projects}, around=around)
    assert found.servers == {"a": SERVER, "b": projects, "c": checkouts}
    assert plan("aider", servers={"a": projects}).servers == {}, "it has none, and works without"


def test_context_goes_to_each_agent_in_its_own_way() -> None:
    around = Surroundings(context={"AGENTS.md": "Use tabs.", "CLAUDE.md": "Be kind."})
    builtin = plan("builtin", around=around)
    assert b"Use tabs." in builtin.files[table.PROMPT_FILE]
    assert builtin.files[table.PROMPT_FILE].endswith(b"# The task\n\nFix it.")
    aider = plan("aider", around=around)
    assert aider.argv[-4:] == ("--read", "AGENTS.md", "--read", "CLAUDE.md")
    assert aider.files[table.PROMPT_FILE] == b"Fix it."
    codex = plan("codex", around=around)
    assert "Be kind." in codex.argv[-1]
    assert "Use tabs." not in codex.argv[-1], "it reads AGENTS.md by itself"
    gemini = json.loads(
        plan("gemini-cli", around=around).files["/home/agent/.gemini/settings.json"]
    )
    assert gemini["context"]["fileName"] == ["AGENTS.md", "CLAUDE.md"]
    command = plan("command", argv=("true",), around=around)
    assert command.files[table.PROMPT_FILE] == b"Fix it."


def test_context_is_read_from_regular_files_of_the_checkout_alone(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root:x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "AGENTS.md").symlink_to(tmp_path / "secret")
    os.mkfifo(tree / ".goosehints")
    (tree / "CLAUDE.md").write_text("ü" * 100_000)
    found = context.found_in(tree)
    assert list(found.context) == ["CLAUDE.md"]
    assert len(found.context["CLAUDE.md"]) == context.CONTEXT_BYTES_MAX // 2


def test_files_that_say_the_same_are_one(tmp_path: Path) -> None:
    (tmp_path / "AGENTS.md").write_text("Use tabs.\n")
    (tmp_path / "CLAUDE.md").write_text("@AGENTS.md\n")
    (tmp_path / ".goosehints").write_text("Use tabs.\n")
    assert list(context.found_in(tmp_path).context) == ["AGENTS.md"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 10_000, '{"mcpServers": 3}', '{"mcpServers": {"a": null}}',
             '{"mcpServers": {"a": {"url": "http://x"}}}', '{"mcpServers": {"a": {"command": 1}}}']
)  # fmt: skip
def test_a_bad_mcp_file_gives_no_server(text: str) -> None:
    assert context.servers_in(text) == {}


def test_a_good_mcp_file_gives_its_servers_over_stdio() -> None:
    text = '{"mcpServers": {"a": {"command": "x", "args": ["y"], "env": {"K": "v"}}, "b": {}}}'
    assert context.servers_in(text) == {"a": McpServer(argv=("x", "y"), env={"K": "v"})}


def test_toml_is_read_back_as_it_was_meant() -> None:
    value = {
        "a": 'x"\\\n\x7fü',
        "t": {"on": True, "n": 3, "l": ["a", "b"], "e": {}, "k k": {"z": 1}},
    }
    written = configs.written(Config(value, form="toml"), configs.Filling({}, {}, ()))
    assert tomllib.loads(written.decode()) == value


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("codex-cli 0.171.0\n", "0.171.0"),
        ("This is mini-swe-agent version 2.4.6.\nCheck", "2.4.6"),
        ("aider 0.86.2", "0.86.2"),
        ("nothing", ""),
    ],
)
def test_a_version_is_found_in_what_a_program_says(said: str, version: str) -> None:
    assert version_in(said) == version


def test_what_we_install_is_what_the_table_says() -> None:
    locks = Path(__file__).parents[3] / "deploy" / "local" / "wfhub_local" / "agents" / "locks"
    for entry in table.ENTRIES.values():
        if entry.install is Install.PIP:
            assert f"=={entry.version} " in (locks / f"{entry.name}.lock").read_text()
        elif entry.install is Install.NPM:
            lock = json.loads((locks / entry.name / "package-lock.json").read_text())
            versions = {package.get("version") for package in lock["packages"].values()}
            assert entry.version in versions
