"""`claude-jsonl`: stream-json of Claude Code, which Qwen Code prints too.

A message of the model comes in parts that have one `message.id`; a tool's result is a message of
the user; the last line is the `result`, which says "success" after many a failure.
"""

from collections.abc import Iterable, Iterator

from wfhub_agent_runner.agents.parsers import events as e
from wfhub_agent_runner.agents.parsers.reading import Line, inner, objects, parts


def events(lines: Iterable[Line]) -> Iterator[e.Event]:
    number, called = 1, False
    for line in objects(lines):
        match line.get("type"):
            case "assistant":
                if called or number == 1:
                    yield e.step(number)
                    number, called = number + 1, False
                for part in parts(inner(line, "message").get("content")):
                    match part.get("type"):
                        case "text":
                            yield e.message(part.get("text"))
                        case "tool_use":
                            yield e.tool_call(part.get("id"), part.get("name"), part.get("input"))
            case "user":
                for part in parts(inner(line, "message").get("content")):
                    if part.get("type") == "tool_result":
                        called = True
                        failed = part.get("is_error") is True
                        text = e.texts(part.get("content"))
                        yield e.tool_result(part.get("tool_use_id"), text, ok=not failed)
            case "result":
                usage = inner(line, "usage")
                yield e.usage(usage.get("input_tokens"), usage.get("output_tokens"))
                if line.get("is_error") is True:
                    yield e.error(line.get("error") or line.get("result"))
