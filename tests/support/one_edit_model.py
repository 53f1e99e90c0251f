"""A model server that has one edit to make: `python one_edit_model.py PORT [COMMAND]`.

Prints `ready`. Speaks Chat Completions as a stub: the first turn runs the command, any later one
finishes.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

EDIT = "sed -i s/colour/color/ README.md"
COMMAND = {"command": EDIT}
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    edited = any(message["role"] == "tool" for message in asked["messages"])
    name, arguments = ("finish", {"summary": "done"}) if edited else ("run_command", COMMAND)
    call = {
        "id": f"call_{int(edited)}",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": asked.get("model", "stub"),
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
        "usage": USAGE,
    }


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(answer(asked)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(port: int, command: str = EDIT) -> Iterator[None]:
    """Ended also when what is to use it never starts."""
    argv = [sys.executable, __file__, str(port), command]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as model:
        try:
            assert model.stdout is not None
            assert model.stdout.readline() == "ready\n"
            yield
        finally:
            model.kill()


if __name__ == "__main__":
    COMMAND["command"] = (sys.argv[2:] or [EDIT])[0]
    server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler)
    print("ready", flush=True)
    server.serve_forever()
