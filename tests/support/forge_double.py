"""A forge on loopback that records: GitHub's, GitLab's and Gitea's pull requests, in memory.

It takes what their published descriptions take and refuses what they refuse: an unknown token
(401), an unknown repository (404), a second request for the same branches (422 or 409), a target
that is not there (422).
"""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TARGETS = ("main", "release")
REQUIRED = {
    "github": {"title", "head", "base"},
    "gitea": {"title", "head", "base"},
    "gitlab": {"title", "source_branch", "target_branch"},
}
ALLOWED = {
    "github": REQUIRED["github"] | {"body", "draft", "maintainer_can_modify", "issue", "head_repo"},
    "gitea": REQUIRED["gitea"] | {"body", "assignees", "labels", "milestone", "due_date"},
    "gitlab": REQUIRED["gitlab"] | {"description", "labels", "remove_source_branch", "squash"},
}


@dataclass(frozen=True)
class Exchange:
    """One request as it came, and what was said to it."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: Any
    code: int
    said: Any


@dataclass
class Forge:
    kind: str
    token: str
    url: str = ""
    made: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    fail_with: list[int] = field(default_factory=list)  # the next answers' codes
    cut_creation: bool = False  # carried out, and answered by nothing

    def answer(self, method: str, target: str, body: dict[str, Any]) -> tuple[int, Any]:
        parts = urlsplit(target)
        self.requests.append(f"{method} {target}")
        if self.fail_with:
            return self.fail_with.pop(0), {"message": "as planned"}
        prefix = {
            "github": "/repos/acme/app/pulls",
            "gitea": "/repos/acme/app/pulls",
            "gitlab": "/projects/acme%2Fapp/merge_requests",
        }[self.kind]
        if not parts.path.startswith(prefix):
            return 404, {"message": "Not Found"}
        if method == "POST":
            return self._create(body)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        below = parts.path.removeprefix(prefix).strip("/")
        return self._look(asked, [unquote(part) for part in below.split("/") if part])

    def _look(self, asked: dict[str, str], below: list[str]) -> tuple[int, Any]:
        if self.kind == "gitea":
            base, head = below
            there = [m for m in self.made if m["base"]["ref"] == base and m["head"]["ref"] == head]
            return (200, there[0]) if there else (404, {"message": "not found"})
        assert asked.get("state") == "all", "a closed one counts too"
        if self.kind == "github":
            owner, _, head = asked["head"].partition(":")
            assert owner == "acme"
            return 200, [m for m in self.made if m["head"]["ref"] == head]
        return 200, [m for m in self.made if m["source_branch"] == asked["source_branch"]]

    def _create(self, body: dict[str, Any]) -> tuple[int, Any]:
        assert REQUIRED[self.kind] <= set(body) <= ALLOWED[self.kind], body
        lab = self.kind == "gitlab"
        head, base = (
            (body["source_branch"], body["target_branch"]) if lab else (body["head"], body["base"])
        )
        if base not in TARGETS:
            return 422, {"message": "Validation Failed: base is invalid"}
        if self._has(head, base):
            return (422 if self.kind == "github" else 409), {"message": "already exists"}
        number = len(self.made) + 1
        common = {"title": body["title"], "draft": body.get("draft", False)}
        common["state"] = "opened" if lab else "open"
        if lab:
            page = f"{self.url}/acme/app/-/merge_requests/{number}"
            common |= {"iid": number, "web_url": page, "source_branch": head}
            common |= {"target_branch": base, "description": body["description"]}
        else:
            page = f"{self.url}/acme/app/pull/{number}"
            common |= {"number": number, "html_url": page, "body": body["body"]}
            common |= {"head": {"ref": head}, "base": {"ref": base}}
        self.made.append(common)
        return 201, common

    def _has(self, head: str, base: str) -> bool:
        for made in self.made:
            if self.kind == "gitlab":
                there = (made["source_branch"], made["target_branch"])
            else:
                there = (made["head"]["ref"], made["base"]["ref"])
            if there == (head, base):
                return True
        return False


@contextmanager
def forge(kind: str, token: str) -> Iterator[Forge]:
    found = Forge(kind, token)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            if self.headers.get("Authorization") != f"Bearer {found.token}":
                code, said = 401, {"message": "Bad credentials"}
            else:
                code, said = found.answer(self.command, self.path, body or {})
            headers = {name.lower(): value for name, value in self.headers.items()}
            found.exchanges.append(Exchange(self.command, self.path, headers, body, code, said))
            if found.cut_creation and self.command == "POST":
                found.cut_creation = False
                return
            raw = json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
