"""`gemini-jsonl`: stream-json of the Gemini CLI; what the model says comes in pieces."""

from collections.abc import Iterable, Iterator

from wfhub_agent_runner.agents.parsers import events as e
from wfhub_agent_runner.agents.parsers.reading import Line, inner, objects


def events(lines: Iterable[Line]) -> Iterator[e.Event]:
    said, steps, called = "", 0, True
    for line in objects(lines):
        kind = line.get("type")
        if kind == "message" and line.get("role") == "assistant":
            said += e.plain(line.get("content"))
            continue
        if called and (said or kind == "tool_use"):
            steps, called = steps + 1, False
            yield e.step(steps)
        if said:
            yield e.message(said)
            said = ""
        match kind:
            case "tool_use":
                yield e.tool_call(
                    line.get("tool_id"), line.get("tool_name"), line.get("parameters")
                )
            case "tool_result":
                called = True
                ok = line.get("status") == "success"
                text = line.get("output") if ok else inner(line, "error").get("message")
                yield e.tool_result(line.get("tool_id"), text, ok=ok)
            case "error":
                yield e.error(line.get("message"))
            case "result":
                stats = inner(line, "stats")
                yield e.usage(stats.get("input_tokens"), stats.get("output_tokens"))
                if line.get("status") == "error":
                    yield e.error(inner(line, "error").get("message"))
    if said:
        yield e.message(said)
