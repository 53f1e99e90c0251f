"""The tools: what a model may call, and how its arguments are checked.

What they do is in shell.py (commands), files.py (files, as the model last saw them) and here (the
plan). Every result is a text for the model, and depends on the workspace only: it holds no times.
Raises: ToolError, OSError; the session answers both to the model.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable  # noqa: UP035 - Python 3.8

from .errors import ToolError
from .events import clipped
from .files import READ_LINES, Files
from .shell import COMMAND_S, COMMAND_S_MAX, Shell

PLAN_CHARS_MAX = 4_000

# name → (description, {parameter: (type, required, description)})
TOOLS: dict[str, tuple[str, dict[str, tuple[str, bool, str]]]] = {
    "run_command": (
        "Run a shell command. Gives its exit code, and stdout and stderr together.",
        {
            "command": ("string", True, "for /bin/sh"),
            "timeout_s": ("integer", False, f"default {COMMAND_S}, at most {COMMAND_S_MAX}"),
        },
    ),
    "read_file": (
        "Read lines of a text file; each comes with its number and a tab before it.",
        {
            "path": ("string", True, "relative to the repository"),
            "start_line": ("integer", False, "default 1"),
            "line_count": ("integer", False, f"default {READ_LINES}"),
        },
    ),
    "write_file": (
        "Write a whole file; folders are made as needed. To change a file use patch_file; one "
        "that is there must have been read whole before.",
        {"path": ("string", True, "relative to the repository"), "content": ("string", True, "")},
    ),
    "patch_file": (
        "Replace text in a file. The text must occur exactly once, whitespace included.",
        {
            "path": ("string", True, "relative to the repository"),
            "search": ("string", True, "the text as it is, without line numbers"),
            "replace": ("string", True, "the text to be there instead"),
        },
    ),
    "update_plan": (
        "Keep your plan, in place of the last: it stays in sight when earlier work is summed up.",
        {"plan": ("string", True, "a short list: what is done, what is next")},
    ),
    "finish": ("End the work.", {"summary": ("string", True, "what was done, how it was tested")}),
}


def schema() -> list[dict[str, Any]]:
    """TOOLS as the `tools` of a request."""
    functions = []
    for name, (description, parameters) in TOOLS.items():
        properties = {k: {"type": kind, "description": d} for k, (kind, _, d) in parameters.items()}
        needed = [key for key, (_, required, _) in parameters.items() if required]
        shape = {"type": "object", "properties": properties, "required": needed}
        functions.append({"name": name, "description": description, "parameters": shape})
    return [{"type": "function", "function": function} for function in functions]


def call_in_text(text: str) -> dict[str, Any] | None:
    """A tool call that a model printed instead of making it."""
    found = re.search(r"(?:<tool_call>|```\w*\n|\A)\s*(?=\{)", text)
    try:
        value = json.JSONDecoder().raw_decode(text, found.end())[0] if found else None
    except ValueError:
        return None
    if not isinstance(value, dict) or value.get("name") not in TOOLS:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    return {"id": None, "name": value["name"], "arguments": json.dumps(arguments)}


def arguments_of(call: dict[str, Any], *, cut: bool) -> dict[str, Any]:
    """The checked arguments of a call. Raises: ToolError that says what is wrong with them."""
    name, text = call["name"], call["arguments"]
    if name not in TOOLS:
        raise ToolError(f"no tool is named {name!r}; there are: {', '.join(TOOLS)}")
    try:
        values = json.loads(text or "{}")
    except ValueError as e:
        why = "the answer was cut at its length limit: send less at a time" if cut else str(e)
        raise ToolError(f"the arguments are not JSON ({why}): {clipped(text, 200)}") from e
    if not isinstance(values, dict):
        raise ToolError("the arguments must be a JSON object")
    parameters = TOOLS[name][1]
    given = {key: value for key, value in values.items() if value is not None}
    for key, value in given.items():
        if key not in parameters:
            raise ToolError(f"unknown argument {key!r}; {name} takes: {', '.join(parameters)}")
        if type(value) is not (str if parameters[key][0] == "string" else int):
            raise ToolError(f"the argument {key!r} must be of type {parameters[key][0]}")
    for key, (_, required, _) in parameters.items():
        if required and key not in given:
            raise ToolError(f"the argument {key!r} is missing")
    return given


class Toolbox:
    """The tools of one session, and what they remember of it."""

    def __init__(self) -> None:
        self.files, self.shell, self.plan = Files(), Shell(), ""
        self.calls: dict[str, Callable[..., str]] = {
            "run_command": self.shell.run,
            "read_file": self.files.read,
            "write_file": self.files.write,
            "patch_file": self.files.patch,
            "update_plan": self.update_plan,
            "finish": lambda summary: summary,
        }

    def update_plan(self, plan: str) -> str:
        if len(plan) > PLAN_CHARS_MAX:
            raise ToolError(f"the plan is over {PLAN_CHARS_MAX} characters: say it shorter")
        self.plan = plan
        return "plan kept"
