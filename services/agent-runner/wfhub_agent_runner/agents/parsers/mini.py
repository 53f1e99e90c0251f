"""`mini-messages`: mini-swe-agent's trajectory, one message a line, as the table has it printed.

What mini itself prints comes before, as text for people. A message of the model has `tool_calls` as
Chat Completions has them; the last one, of role `exit`, says why it ended.
"""

from collections.abc import Iterable, Iterator

from wfhub_agent_runner.agents.parsers import events as e
from wfhub_agent_runner.agents.parsers.reading import Line, inner, objects, parts

GOOD_ENDS = {"", "Submitted"}


def events(lines: Iterable[Line]) -> Iterator[e.Event]:
    steps = 0
    for line in objects(lines):
        match line.get("role"):
            case "assistant":
                steps += 1
                yield e.step(steps)
                if said := e.texts(line.get("content")):
                    yield e.message(said)
                for call in parts(line.get("tool_calls")):
                    function = inner(call, "function")
                    yield e.tool_call(
                        call.get("id"), function.get("name"), function.get("arguments")
                    )
                usage = inner(line, "extra", "response", "usage")
                yield e.usage(usage.get("prompt_tokens"), usage.get("completion_tokens"))
            case "tool":
                ok = inner(line, "extra").get("returncode") == 0
                yield e.tool_result(line.get("tool_call_id"), e.texts(line.get("content")), ok=ok)
            case "exit":
                status = e.plain(inner(line, "extra").get("exit_status"))
                if status not in GOOD_ENDS:
                    yield e.error(f"{status}: {e.texts(line.get('content'))}")
