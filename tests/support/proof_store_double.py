"""Test support: a small real HTTP server with blobs and proofs."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ProofStoreDouble:
    """Serves blobs, exports and a key as the proof-store does; `token` is required."""

    def __init__(self) -> None:
        self.token = "wst_double"
        self.blobs: dict[str, bytes] = {}
        self.exports: dict[str, Any] = {}
        self.held_back = 0  # bytes that are promised and never come
        self.public_key = "-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----\n"
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = double.answer(self.path, self.headers.get("authorization"))
                self.send_response(200 if isinstance(found, bytes) else found)
                body = found if isinstance(found, bytes) else b"{}"
                self.send_header("Content-Length", str(len(body) + double.held_back))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # Its default looks twice a second for its end, and each test waits for that.
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()

    def answer(self, path: str, authorization: str | None) -> bytes | int:
        if authorization != f"Bearer {self.token}":
            return 401
        if path == "/public-key":
            return self.public_key.encode()
        head, _, name = path.rpartition("/")
        if head == "/blobs/sha256":
            return self.blobs.get(name, 404)
        if head == "/proofs" and name in self.exports:
            return json.dumps(self.exports[name]).encode()
        return 404

    def put(self, data: bytes) -> str:
        hex_ = hashlib.sha256(data).hexdigest()
        self.blobs[hex_] = data
        return f"sha256:{hex_}"

    def receipt(self, attempt_id: str, name: str, data: bytes) -> dict[str, Any]:
        return {
            "attempt_id": attempt_id,
            "name": name,
            "digest": self.put(data),
            "size": len(data),
            "media_type": "text/html",
            "sender": "rnr",
            "stored_at": "2030-01-01T00:00:00Z",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
