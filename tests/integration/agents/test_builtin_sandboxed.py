"""The built-in agent where it belongs: planned by the table, in a real sandbox, through a relay."""

import json
from pathlib import Path
from typing import Any

import unprivileged
from sandbox_backends import backend, container_image, container_python, pytest_generate_tests
from sandbox_lab import Lab, Ran
from wfhub_agent_runner.agents import planning, table
from wfhub_agent_runner.relay import GatewayRelay
from wfhub_agent_runner.sandbox.port import Exited
from wfhub_common.messages import AgentSpec
from wfhub_local.demo import scripted_model

__all__ = ["backend", "container_image", "container_python", "pytest_generate_tests"]
PATH = "/usr/bin:/bin"


def calls(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    message = {"role": "assistant", "tool_calls": [{"id": "c", "function": function}]}
    return {"choices": [{"index": 0, "message": message}]}


async def session(home: Path, spec: AgentSpec, *answers: dict[str, Any]) -> tuple[Ran, list[Any]]:
    """The agent's run on a workspace with old.txt, and what the model was asked."""
    lab = Lab(home)
    plan = planning.plan(spec, prompt="Make it new.", python=lab.sandbox.interpreter)
    with scripted_model.serving(answers) as script:
        gateway = script.url.removesuffix("/v1")
        relay = GatewayRelay(socket_path=home / "s", gateway_url=gateway, token="wat_real")
        async with relay:
            ran = await lab.run(
                *plan.argv,
                env={"PATH": PATH, **plan.env},
                files=plan.files,
                gateway_socket=relay.socket_path,
                **lab.layers(),
            )
    return ran, script.requests


def test_the_agent_reads_writes_and_runs_in_its_workspace_alone(tmp_path: Path) -> None:
    ran, asked = unprivileged.run(
        tmp_path,
        lambda: session(
            tmp_path,
            AgentSpec(),
            calls("run_command", command="pwd; cat old.txt; cat /run/wfhub/prompt.md"),
            calls("write_file", path="new.txt", content="new\n"),
            calls("write_file", path="/run/wfhub/prompt.md", content="other"),
            calls("write_file", path="/usr/evil", content=""),
            calls("finish", summary="made"),
        ),
    )
    assert ran.outcome == Exited(0), ran.output
    results = [m["content"] for m in asked[-1]["messages"] if m["role"] == "tool"]
    assert results[0] == "exit code: 0\n/workspace\nold\nMake it new."
    assert results[1] == "wrote 4 bytes to new.txt"
    assert results[2].startswith("error: ")
    assert results[3].startswith("error: ")
    assert (tmp_path / "layer" / "upper" / "new.txt").read_text() == "new\n"
    assert json.loads(ran.output.splitlines()[-1])["summary"] == "made"


def test_the_agent_never_sees_the_attempts_token(tmp_path: Path) -> None:
    _, asked = unprivileged.run(
        tmp_path,
        lambda: session(
            tmp_path,
            AgentSpec(),
            calls("run_command", command="env; cat /proc/*/environ /proc/*/cmdline | tr '\\0' ' '"),
            calls("finish", summary=""),
        ),
    )
    shown = asked[-1]["messages"][-1]["content"]
    assert f"OPENAI_API_KEY={table.DUMMY_KEY}" in shown
    assert "wat_real" not in shown


def test_any_command_finds_the_prompt_and_the_gateway(tmp_path: Path) -> None:
    script = 'test "$OPENAI_BASE_URL" && cp "$WFHUB_PROMPT_FILE" copied.txt'
    ran, _ = unprivileged.run(
        tmp_path,
        lambda: session(tmp_path, AgentSpec(name="command", argv=("/bin/sh", "-c", script))),
    )
    assert ran.outcome == Exited(0), ran.output
    assert (tmp_path / "layer" / "upper" / "copied.txt").read_text() == "Make it new."
