"""`wfhub-jsonl`: what the built-in agent prints, one object a line, `type` first."""

from collections.abc import Iterable, Iterator

from wfhub_agent_runner.agents.parsers import events as e
from wfhub_agent_runner.agents.parsers.reading import Line, objects


def events(lines: Iterable[Line]) -> Iterator[e.Event]:
    for line in objects(lines):
        match line.get("type"):
            case "step":
                yield e.step(e.whole(line.get("number")))
            case "message":
                yield e.message(line.get("text"))
            case "tool_call":
                yield e.tool_call(line.get("id"), line.get("name"), line.get("arguments"))
            case "tool_result":
                yield e.tool_result(line.get("id"), line.get("output"), ok=line.get("ok") is True)
            case "usage":
                yield e.usage(line.get("prompt_tokens"), line.get("completion_tokens"))
            case "error":
                yield e.error(line.get("message"))
            case "told":
                yield e.told(line.get("text"))
            case "finish":
                yield e.message(line.get("summary"))
