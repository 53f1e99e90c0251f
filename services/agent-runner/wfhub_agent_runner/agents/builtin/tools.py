"""The tools: what a model may call, how its arguments are checked, and what each does.

Every result is a text for the model, and depends on the workspace only: it holds no times.
Raises: ToolError, OSError; the session answers both to the model.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from typing import IO, Any, Callable  # noqa: UP035 - Python 3.8

from .events import clipped

COMMAND_S, COMMAND_S_MAX = 120, 900
OUTPUT_BYTES_MAX = 16_000  # of one command: head and tail
READ_LINES = 400
READ_BYTES_MAX = 64 * 1024 * 1024  # a larger file is for run_command with grep or sed

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
        "Write a whole file; folders are made as needed. To change a file use patch_file.",
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


class ToolError(Exception):
    """A call that could not be carried out; the text is what the model gets for it."""


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


class Kept:
    """Head and tail of a command's output, however long it is."""

    def __init__(self) -> None:
        self.head, self.tail, self.dropped = b"", b"", 0

    def read(self, pipe: IO[bytes]) -> None:
        half = OUTPUT_BYTES_MAX // 2
        for chunk in iter(lambda: os.read(pipe.fileno(), 65536), b""):
            room = half - len(self.head)
            self.head += chunk[:room]
            tail = self.tail + chunk[room:]
            self.dropped += max(0, len(tail) - half)
            self.tail = tail[-half:]

    def text(self) -> str:
        missing = b"\n[... %d bytes left out ...]\n" % self.dropped if self.dropped else b""
        return (self.head + missing + self.tail).decode("utf-8", "replace")


def run_command(command: str, timeout_s: int = COMMAND_S) -> str:
    timeout_s = max(1, min(timeout_s, COMMAND_S_MAX))
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that a timeout ends all that the command started
    )
    kept = Kept()
    reader = threading.Thread(target=kept.read, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        ended = f"exit code: {process.wait(timeout_s)}"
    except subprocess.TimeoutExpired:
        ended = f"killed: it ran longer than {timeout_s} s"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    reader.join(2.0)  # a process left in the background may hold the pipe: do not wait for it
    return f"{ended}\n{kept.text()}"


def content_of(path: str) -> bytes:
    if os.path.getsize(path) > READ_BYTES_MAX:
        raise ToolError(f"{path} is over {READ_BYTES_MAX} bytes: use run_command on it")
    with open(path, "rb") as file:
        return file.read()


def read_file(path: str, start_line: int = 1, line_count: int = READ_LINES) -> str:
    lines = content_of(path).decode("utf-8", "replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    start = max(1, start_line)
    if start > max(1, len(lines)):
        raise ToolError(f"{path} has only {len(lines)} lines")
    chosen = lines[start - 1 : start - 1 + max(1, line_count)]
    numbered = "\n".join(f"{n}\t{line}" for n, line in enumerate(chosen, start))
    return f"{path}, lines {start} to {start + len(chosen) - 1} of {len(lines)}:\n{numbered}"


def write_file(path: str, content: str) -> str:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "wb") as file:
        size = file.write(content.encode("utf-8", "replace"))
    return f"wrote {size} bytes to {path}"


def patch_file(path: str, search: str, replace: str) -> str:
    before, old = content_of(path), search.encode("utf-8", "replace")
    count = before.count(old) if old else 0
    if count != 1:
        hint = "read it again and copy exactly" if count == 0 else "add lines around it"
        raise ToolError(f"`search` must occur once in {path}, but occurs {count} times; {hint}")
    with open(path, "wb") as file:
        file.write(before.replace(old, replace.encode("utf-8", "replace")))
    return f"patched {path} at line {before[: before.index(old)].count(10) + 1}"


def finish(summary: str) -> str:
    return summary


CALLS: dict[str, Callable[..., str]] = {
    f.__name__: f for f in (run_command, read_file, write_file, patch_file, finish)
}
