"""What we ask of forges and read of their answers, against what they publish (forges.yaml).

The double of the other tests is held to the same facts, so that what passes there is no invention.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import forge_double
import httpx
import jsonschema_rs
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from forge_double import Exchange, Forge
from wfhub_agent_runner.gitwork.outcomes import PullRequest
from wfhub_agent_runner.gitwork.remote import forges, github_app
from wfhub_agent_runner.gitwork.remote.credentials import GitHubApp
from wfhub_agent_runner.gitwork.remote.forges import Wanted
from wfhub_agent_runner.gitwork.remote.pinned import Pinned
from wfhub_common.errors import Rejected, RetryLater

FACTS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "forges.yaml").read_text())
KINDS = ("github", "gitlab", "gitea")
TOKEN = "canary-forge-token-1"
WANTED = Wanted("wfhub/tsk_x", "main", "Fix the colour", "As asked.", draft=False)


@pytest.fixture(params=KINDS)
def forge(request: pytest.FixtureRequest) -> Iterator[Forge]:
    with forge_double.forge(request.param, TOKEN) as found:
        yield found


def adapter_of(double: Forge) -> forges.GitHub | forges.GitLab:
    return forges._ADAPTERS[double.kind][0](double.url, "acme/app")


def opened(double: Forge, **other: Any) -> PullRequest:
    transport = Pinned(private_allowed=True)
    return forges.open_once(adapter_of(double), replace(WANTED, **other), TOKEN, transport)


def operation(kind: str, method: str) -> dict[str, Any]:
    found: dict[str, Any] = FACTS[kind]["found" if method == "GET" else "creation"]
    assert found["method"] == method
    return found


def assert_asked_as_published(told: dict[str, Any], method: str, target: str, body: Any) -> None:
    parts = urlsplit(target)
    assert method == told["method"]
    # One segment for each name in braces: a slash in it must have been escaped.
    assert re.fullmatch(re.sub(r"{\w+}", "[^/]+", told["path"]), parts.path), parts.path
    query = parse_qsl(parts.query, keep_blank_values=True)
    allowed = {"properties": told.get("query", {}), "additionalProperties": False}
    assert len(dict(query)) == len(query)
    jsonschema_rs.validate({"type": "object", **allowed}, dict(query))
    if "body" in told:
        jsonschema_rs.validate(told["body"], body)
    else:
        assert not body


def assert_as_published(kind: str, seen: Exchange) -> None:
    told = operation(kind, seen.method)
    assert_asked_as_published(told, seen.method, seen.target, seen.body)
    if seen.body is not None:
        assert seen.headers["content-type"] == "application/json"
    jsonschema_rs.validate(told["answers"][str(seen.code)], seen.said)


def test_every_request_and_every_answer_of_the_double_is_as_published(forge: Forge) -> None:
    assert opened(forge).created
    assert not opened(forge).created
    assert opened(forge, head="wfhub/tsk_y", draft=True).created
    with pytest.raises(Rejected):
        opened(forge, head="wfhub/tsk_z", target="none")
    assert {seen.method for seen in forge.exchanges} == {"GET", "POST"}
    assert {seen.code for seen in forge.exchanges} >= {200, 201, 422}
    for seen in forge.exchanges:
        assert_as_published(forge.kind, seen)


@pytest.mark.parametrize("target", ["release/1.x", "a b#?%"])
def test_a_branch_of_any_name_stays_one_segment_of_the_path(forge: Forge, target: str) -> None:
    with pytest.raises(Rejected):
        opened(forge, target=target)
    for seen in forge.exchanges:
        assert_as_published(forge.kind, seen)
    assert {seen.method for seen in forge.exchanges} == {"GET", "POST"}


def test_one_that_was_made_between_looking_and_making_is_found(forge: Forge) -> None:
    code = "422" if forge.kind == "github" else "409"
    assert code in operation(forge.kind, "POST")["answers"]
    opened(forge)
    missed = forge.made.pop()
    speaks = adapter_of(forge)
    with httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        assert forges._looked(http, speaks, WANTED) is None
        forge.made.append(missed)
        answer = forges._sent(http, speaks.creation(WANTED))
        assert str(answer.status_code) == code
        assert forges._looked(http, speaks, WANTED) is not None


class Noted(dict[str, Any]):
    """An answer that notes what is read of it."""

    def __init__(self, content: dict[str, Any], at: str, read: set[str]) -> None:
        super().__init__(content)
        self._at, self._read = at, read

    def __getitem__(self, name: str) -> Any:
        self._read.add(f"{self._at}.{name}")
        found = super().__getitem__(name)
        is_inner = isinstance(found, dict)
        return Noted(found, f"{self._at}.{name}", self._read) if is_inner else found


def declared(schema: dict[str, Any], at: str = "") -> set[str]:
    names = set()
    for name, inner in schema.get("properties", {}).items():
        names |= {f"{at}.{name}"} | declared(inner, f"{at}.{name}")
    return names


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_that_is_read_is_published(kind: str) -> None:
    with forge_double.forge(kind, TOKEN) as double:
        opened(double)
        made, speaks = double.made[0], adapter_of(double)
    schema = operation(kind, "GET")["answers"]["200"]
    read: set[str] = set()
    noted: Any = Noted(made, "", read)
    if schema["type"] == "array":
        schema, noted = schema["items"], [noted]
    first = speaks.first(noted, WANTED)
    assert first is not None
    assert speaks.shown(Noted(dict(first), "", read))[0] == 1
    assert read
    assert read <= declared(schema)
    assert read <= declared(operation(kind, "POST")["answers"]["201"])


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_answer_without_what_is_not_promised_is_asked_for_again(
    forge: Forge, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = forge.answer

    def answer(asked: str, target: str, body: dict[str, Any]) -> tuple[int, Any]:
        code, said = told(asked, target, body)
        if asked != method:
            return code, said
        bare = {"title": "Fix the colour"}
        return {"GET": 200, "POST": 201}[method], bare if forge.kind == "gitea" else [bare]

    monkeypatch.setattr(forge, "answer", answer)
    with pytest.raises(RetryLater) as e:
        opened(forge)
    assert e.value.code == "forge-unavailable"


def test_github_is_asked_in_the_version_that_the_facts_are_of() -> None:
    with forge_double.forge("github", TOKEN) as double:
        opened(double)
    for seen in double.exchanges:
        assert seen.headers["x-github-api-version"] == "2022-11-28"
        assert seen.headers["accept"] == "application/vnd.github+json"


def test_an_apps_token_is_asked_for_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    told = FACTS["github"]["installation_token"]
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    said = {"token": "ghs-minted", "expires_at": "2026-01-01T00:00:00Z"}
    jsonschema_rs.validate(told["answers"]["201"], said)
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(201, json=said)

    made = httpx.Client
    monkeypatch.setattr(
        github_app.httpx, "Client", lambda **_: made(transport=httpx.MockTransport(answer))
    )
    app = GitHubApp("7", "8", pem.decode())
    assert github_app.installation_token(app) == said["token"]
    (request,) = asked
    assert request.url.host == "api.github.com"
    assert_asked_as_published(told, request.method, request.url.raw_path.decode(), request.content)
