"""A server that answers chat completions with given ones, in order, and keeps what it was asked."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Script:
    url: str  # with /v1
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def serving(answers: Sequence[dict[str, Any]]) -> Iterator[Script]:
    """Answers past the last one are a 410, which no client asks again."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            number = len(script.requests)
            length = int(self.headers["Content-Length"])
            script.requests.append(json.loads(self.rfile.read(length)))
            there = number < len(answers)
            body = json.dumps(answers[number] if there else {"error": "the script is over"})
            self.send_response(200 if there else 410)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script = Script(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
