"""Makes an agent's cassette: its real program works once, a scripted server plays the model.

`python -m wfhub_local.agents.make_cassette NAME --toolchain DIR` writes into cassettes/.
It holds what the gateway asked the server, whatever format the program speaks. What the program
says to a model in its own words (system and user texts, its tools' descriptions) is free to change;
what the tools answered must be the same at every replay.
Raises: CommandFailed, SystemExit.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from wfhub_local.agents import selftest
from wfhub_local.agents.scripts import SCRIPTS, VOLATILE, Turn
from wfhub_local.demo import scripted_model

MODEL = "scripted"
ASIDE = "Nothing to add."
NOTE = (
    "The assistant's turns are scripted: no model said them. The requests are what {name} "
    "{version} asked in its sandbox. Made by wfhub_local.agents.make_cassette"
)
ASKED_CHARS_MAX = 20_000
FREE_ROLES = {"system", "developer", "user"}
OPEN = "<any>"


def make(name: str, toolchain: Path) -> str:
    answers = [completion_of(turn, number) for number, turn in enumerate(SCRIPTS[name], 1)]
    aside = completion_of(Turn(ASIDE), 0)
    with tempfile.TemporaryDirectory(prefix="wfhub-agent-") as scratch:
        folder = selftest.Folder(Path(scratch), toolchain)
        folder.path.chmod(0o755)
        with scripted_model.serving(answers, aside=aside) as script:
            provider = {"LLM_PROVIDER": "openai", "LLM_BASE_URL": script.url}
            outcome = selftest.played(name, folder, provider, os.environ)
    if outcome.task["state"] != "succeeded":
        asked = json.dumps(script.requests, indent=1)
        raise SystemExit(f"{name} did not do its task: {outcome.task}\n{asked[-ASKED_CHARS_MAX:]}")
    header = {
        "wfhub_cassette": 1,
        "recorded_from": "",
        "recorded_at": "",
        "handwritten": True,
        "note": NOTE.format(name=name, version=outcome.observed["agent_version"]),
        "volatile": VOLATILE.get(name, []),
    }
    pairs = zip(script.requests, script.answers, strict=True)
    said = {turn.says for turn in SCRIPTS[name]}
    lines = [header, *distinct([settled(request, answer, said) for request, answer in pairs])]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def completion_of(turn: Turn, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": turn.says}
    if turn.tool:
        function = {"name": turn.tool, "arguments": json.dumps(turn.arguments)}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        message["tool_calls"] = [call]
    reason = "tool_calls" if turn.tool else "stop"
    # No usage: nothing was computed.
    return {
        "id": f"chatcmpl-scripted-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
    }


def settled(
    request: dict[str, Any], answer: dict[str, Any] | None, said: Collection[str]
) -> dict[str, Any]:
    """`said`: what the script says. What else stands as the assistant's is the program's own
    example: neither ours to keep nor ours to hold it to."""
    messages = []
    for message in request["messages"]:
        example = message["role"] == "assistant" and not (
            message.get("tool_calls") or message["content"] in said
        )
        free = message["role"] in FREE_ROLES or example
        messages.append({"role": message["role"], "content": OPEN} if free else message)
    return {"request": {"messages": messages}, "response": {"stream": False, "body": answer}}


def distinct(exchanges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each request once: a replay answers an equal one with the last that is there."""
    seen: dict[str, dict[str, Any]] = {}
    for exchange in exchanges:
        seen.setdefault(json.dumps(exchange["request"], sort_keys=True), exchange)
    return list(seen.values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m wfhub_local.agents.make_cassette")
    parser.add_argument("name", choices=sorted(SCRIPTS))
    parser.add_argument("--toolchain", type=Path, required=True)
    asked = parser.parse_args()
    text = make(asked.name, asked.toolchain.absolute())
    path = Path(__file__).parent / "cassettes" / f"{asked.name}.cassette.jsonl"
    path.write_text(text)
    print(f"{path}: {len(text.splitlines()) - 1} exchanges, scripted", file=sys.stderr)


if __name__ == "__main__":
    main()
