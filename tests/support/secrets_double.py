"""An API server of ours, as far as Secrets of one namespace need it.

Simulated: names are unique, an update with an old resourceVersion conflicts, an error is a Status.
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import httpx

PATH = "/api/v1/namespaces/hub/secrets"


@dataclass
class ApiServer:
    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    version: int = 0
    forbidden: bool = False
    created_before: dict[str, Any] | None = None  # by somebody else, just before our first create

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.forbidden:
            return self.status(403, "secrets is forbidden")
        name = request.url.path.removeprefix(PATH).strip("/")
        if request.method == "GET":
            found = self.held.get(name)
            return httpx.Response(200, json=found) if found else self.status(404, "not found")
        made = json.loads(request.content)
        assert (made["apiVersion"], made["kind"], made["type"]) == ("v1", "Secret", "Opaque")
        for value in made["data"].values():
            base64.b64decode(value, validate=True)
        name = made["metadata"]["name"]
        if request.method == "POST":
            if self.created_before is not None:
                self.keep(name, self.created_before)
                self.created_before = None
            if name in self.held:
                return self.status(409, "already exists")
        elif name not in self.held:
            return self.status(404, "not found")
        elif made["metadata"].get("resourceVersion") not in (
            None,
            self.held[name]["metadata"]["resourceVersion"],
        ):
            return self.status(409, "the object has been modified")
        self.keep(name, made)
        return httpx.Response(200, json=self.held[name])

    def keep(self, name: str, made: dict[str, Any]) -> None:
        self.version += 1
        metadata = {**made["metadata"], "resourceVersion": str(self.version)}
        self.held[name] = {**made, "metadata": metadata}

    def status(self, code: int, message: str) -> httpx.Response:
        return httpx.Response(code, json={"kind": "Status", "message": message, "code": code})
