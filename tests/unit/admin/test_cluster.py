"""Secrets of a cluster, against an API server of ours that behaves as Kubernetes says it does.

Simulated: names are unique, an update with an old resourceVersion conflicts, an error is a Status.
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from wfhub_admin import cluster
from wfhub_admin.cluster import Secrets
from wfhub_admin.outlay import READERS, Where, outlay

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


def secrets(server: ApiServer) -> Secrets:
    client = httpx.Client(base_url="https://10.0.0.1", transport=httpx.MockTransport(server))
    return Secrets(client, "hub", "wfhub")


def test_the_truth_is_made_once_and_grows() -> None:
    server = ApiServer()
    one = cluster.truth(secrets(server), runners=1)
    again = cluster.truth(secrets(server), runners=1)
    three = cluster.truth(secrets(server), runners=3)
    assert again == one
    assert three.credentials.runner_ids[:1] == one.credentials.runner_ids
    assert three.signing_key == one.signing_key
    assert list(server.held) == ["wfhub-state"]


def test_of_two_that_start_together_one_makes_it_and_both_have_the_same() -> None:
    first = ApiServer()
    theirs = cluster.truth(secrets(first), runners=2)
    second = ApiServer(created_before=first.held["wfhub-state"])
    assert cluster.truth(secrets(second), runners=2) == theirs


def test_every_reader_gets_a_secret_of_its_own_and_again_at_each_upgrade() -> None:
    server = ApiServer()
    for _ in range(2):
        truth = cluster.truth(secrets(server), runners=1)
        made = outlay(truth, Where("nats://nats:4222"), provider_keys={"OPENAI_API_KEY": "sk-1"})
        cluster.write(made, secrets(server))
    assert set(server.held) == {"wfhub-state", *(f"wfhub-{reader}" for reader in READERS)}
    kept = server.held["wfhub-gateway"]["data"]["openai-api-key"]
    assert base64.b64decode(kept) == b"sk-1"


def test_what_the_api_server_refuses_is_told_in_its_words() -> None:
    with pytest.raises(SystemExit, match="403: secrets is forbidden"):
        cluster.truth(secrets(ApiServer(forbidden=True)), runners=1)


def test_outside_of_a_pod_it_says_so() -> None:
    with pytest.raises(SystemExit, match="no pod"):
        cluster.inside("", 443, namespace="hub", prefix="wfhub")


def test_a_foreign_secret_under_our_name_is_not_taken_for_ours() -> None:
    server = ApiServer()
    server.keep("wfhub-state", {"metadata": {"name": "wfhub-state"}, "data": {"x": "eA=="}})
    with pytest.raises(SystemExit, match="not a state of ours"):
        cluster.truth(secrets(server), runners=1)
