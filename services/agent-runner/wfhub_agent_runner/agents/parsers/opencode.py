"""`opencode-jsonl`: `opencode run --format json`: steps, texts, and tools once they are done."""

from collections.abc import Iterable, Iterator

from wfhub_agent_runner.agents.parsers import events as e
from wfhub_agent_runner.agents.parsers.reading import Line, inner, objects


def events(lines: Iterable[Line]) -> Iterator[e.Event]:
    steps = 0
    for line in objects(lines):
        part = inner(line, "part")
        match line.get("type"):
            case "step_start":
                steps += 1
                yield e.step(steps)
            case "text":
                yield e.message(part.get("text"))
            case "tool_use":
                state = inner(part, "state")
                call_id = part.get("callID")
                yield e.tool_call(call_id, part.get("tool"), state.get("input"))
                ok = state.get("status") == "completed"
                text = state.get("output") if ok else state.get("error")
                yield e.tool_result(call_id, text, ok=ok)
            case "step_finish":
                tokens = inner(part, "tokens")
                yield e.usage(tokens.get("input"), tokens.get("output"))
            case "error":
                failed = inner(line, "error")
                yield e.error(inner(failed, "data").get("message") or failed.get("name"))
