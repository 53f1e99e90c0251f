"""Makes the demo's cassette: the hand-written turns, with the requests that lead to each.

The built-in agent works on a copy of the demo's repository with the demo's toolchain, and a
scripted server plays the model; so the tool results in the requests are real. What is there
outside of the sandbox only (the copy's path, durations) is replaced by what will be there inside.
`python -m wfhub_local.demo.make_cassette [--folder .demo]` writes the file beside this module.
Raises: CannotPrepare when the agent does not end as the turns mean it to.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wfhub_local.demo import scripted_model
from wfhub_local.demo.folder import DEFAULT_FOLDER, Folder
from wfhub_local.demo.sources import CannotPrepare
from wfhub_local.demo.turns import CASSETTE, PROMPT, TURNS, Turn

AGENT_MODULE = "wfhub_agent_runner.agents.builtin"
MODEL = "written-by-hand"
NOTE = (
    "The assistant's turns of the demo, written by hand: no model said them. The tool results are "
    "what the built-in agent got from the demo's repository. Made by wfhub_local.demo.make_cassette"
)
HEADER = {
    "wfhub_cassette": 1,
    "recorded_from": "",
    "recorded_at": "",
    "handwritten": True,
    "note": NOTE,
    "volatile": [],
}


def make(folder: Folder) -> str:
    """The cassette's text, the same for the same turns, agent and repository."""
    folder.make_repository()
    lines = [HEADER, *exchanges(folder.repository, PROMPT, TURNS, toolchain=folder.toolchain)]
    return text_of(lines)


def text_of(lines: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def exchanges(
    repository: Path, prompt: Path, turns: Sequence[Turn], *, toolchain: Path
) -> list[dict[str, Any]]:
    """The lines of a cassette for one session: what the agent asked, and the turns."""
    answers = [completion_of(turn, number) for number, turn in enumerate(turns, 1)]
    # Not below the demo's folder: pytest would find this project's configuration there.
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Path(scratch) / "workspace"
        shutil.copytree(repository, workspace, ignore=shutil.ignore_patterns(".git"))
        with scripted_model.serving(answers) as script:
            done = _run_agent(workspace, script.url, prompt, toolchain)
        if done.returncode != 0 or len(script.requests) != len(turns):
            raise CannotPrepare(f"the agent ended with {done.returncode}:\n{done.stdout[-4000:]}")
        lines: list[dict[str, Any]] = []
        for request, answer in zip(script.requests, answers, strict=True):
            messages = json.loads(settled(json.dumps(request["messages"]), workspace))
            messages[0]["content"] = "<any>"  # the agent's own words, free to change
            lines.append(
                {"request": {"messages": messages}, "response": {"stream": False, "body": answer}}
            )
    return lines


def completion_of(turn: Turn, number: int) -> dict[str, Any]:
    function = {"name": turn.tool, "arguments": json.dumps(turn.arguments)}
    call = {"id": f"call_{number}", "type": "function", "function": function}
    message = {"role": "assistant", "content": turn.says, "tool_calls": [call]}
    # No usage: nothing was computed.
    return {
        "id": f"chatcmpl-by-hand-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
    }


def settled(text: str, workspace: Path) -> str:
    text = text.replace(str(workspace), "/workspace")
    return re.sub(r"(passed|failed) in \d+\.\d+s", r"\1 in 0.10s", text)


def _run_agent(
    workspace: Path, url: str, prompt: Path, toolchain: Path
) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": f"{toolchain / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "OPENAI_BASE_URL": url,
        "WFHUB_PROMPT_FILE": str(prompt),
    }
    command = [sys.executable, "-P", "-m", AGENT_MODULE]
    return subprocess.run(
        command, cwd=workspace, env=env, stdout=subprocess.PIPE, text=True, check=False
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m wfhub_local.demo.make_cassette")
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get(*DEFAULT_FOLDER)))
    text = make(Folder(parser.parse_args().folder.absolute()))
    CASSETTE.write_text(text)
    print(f"{CASSETTE}: {len(TURNS)} exchanges, written by hand")


if __name__ == "__main__":
    main()
