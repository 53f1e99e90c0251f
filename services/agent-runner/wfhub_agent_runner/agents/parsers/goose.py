"""`goose-jsonl`: stream-json of goose, from its documentation: messages of parts."""

from collections.abc import Iterable, Iterator

from wfhub_agent_runner.agents.parsers import events as e
from wfhub_agent_runner.agents.parsers.reading import Line, inner, objects, parts


def events(lines: Iterable[Line]) -> Iterator[e.Event]:
    steps, last_role = 0, ""
    for line in objects(lines):
        match line.get("type"):
            case "message":
                message = inner(line, "message")
                role = e.plain(message.get("role"))
                if role == "assistant" != last_role:
                    steps += 1
                    yield e.step(steps)
                last_role = role
                for part in parts(message.get("content")):
                    match part.get("type"):
                        case "text" if role == "assistant":
                            yield e.message(part.get("text"))
                        case "toolRequest":
                            call = inner(part, "toolCall", "value")
                            yield e.tool_call(
                                part.get("id"), call.get("name"), call.get("arguments")
                            )
                        case "toolResponse":
                            result = inner(part, "toolResult")
                            ok = result.get("status") == "success"
                            text = e.texts(result.get("value")) if ok else result.get("error")
                            yield e.tool_result(part.get("id"), text, ok=ok)
            case "error":
                yield e.error(line.get("error"))
            case "complete":
                yield e.usage(line.get("total_tokens"), 0)
