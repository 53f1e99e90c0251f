"""`codex-jsonl`: `codex exec --json`: threads of turns, turns of items that start and complete."""

from collections.abc import Iterable, Iterator
from typing import Any

from wfhub_agent_runner.agents.parsers import events as e
from wfhub_agent_runner.agents.parsers.reading import Line, inner, objects


def events(lines: Iterable[Line]) -> Iterator[e.Event]:
    turns = 0
    for line in objects(lines):
        match line.get("type"):
            case "turn.started":
                turns += 1
                yield e.step(turns)
            case "item.started":
                yield from _call(inner(line, "item"))
            case "item.completed":
                yield from _done(inner(line, "item"))
            case "turn.completed":
                usage = inner(line, "usage")
                yield e.usage(usage.get("input_tokens"), usage.get("output_tokens"))
            case "turn.failed":
                yield e.error(inner(line, "error").get("message"))
            case "error":
                yield e.error(line.get("message"))


def _call(item: dict[str, Any]) -> Iterator[e.Event]:
    match item.get("type"):
        case "command_execution":
            yield e.tool_call(item.get("id"), "command", item.get("command"))
        case "mcp_tool_call":
            name = f"{item.get('server')}.{item.get('tool')}"
            yield e.tool_call(item.get("id"), name, item.get("arguments"))


def _done(item: dict[str, Any]) -> Iterator[e.Event]:
    ok = item.get("status") == "completed"
    match item.get("type"):
        case "agent_message":
            yield e.message(item.get("text"))
        case "command_execution":
            yield e.tool_result(item.get("id"), item.get("aggregated_output"), ok=ok)
        case "mcp_tool_call":
            yield e.tool_result(item.get("id"), item.get("result") or item.get("error"), ok=ok)
        case "file_change":
            yield e.tool_call(item.get("id"), "file_change", item.get("changes"))
            yield e.tool_result(item.get("id"), "", ok=ok)
        case "error":
            yield e.error(item.get("message"))
