"""Pull requests on three kinds of forge: opened once, found again, refused in words."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import forge_double
import git_hosts
import httpx
import pytest
from forge_double import Forge
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.outcomes import PullRequest
from wfhub_agent_runner.gitwork.remote import forges, operations, url
from wfhub_agent_runner.gitwork.remote.pinned import Pinned
from wfhub_common.errors import Rejected, RetryLater

TOKEN = "canary-forge-token-1"
WANTED: dict[str, Any] = {
    "head": "wfhub/tsk_x",
    "target": "main",
    "title": "Fix the colour",
    "body": "As asked.",
    "draft": False,
}
HOST = "git.example.org"


@pytest.fixture(params=["github", "gitlab", "gitea"])
def forge(request: pytest.FixtureRequest) -> Iterator[Forge]:
    with forge_double.forge(request.param, TOKEN) as found:
        yield found


def access_to(double: Forge, *, token: str = TOKEN, **entry: Any) -> RepoAccess:
    told = {
        "match": f"https://{HOST}/acme",
        "password": token,
        "forge": {"kind": double.kind, "api_url": double.url},
        **entry,
    }
    return RepoAccess.direct(Policy(credentials=json.dumps({"credentials": [told]}), timeout_s=60))


@pytest.mark.parametrize("repo", [f"https://{HOST}/acme/app.git", f"git@{HOST}:acme/app.git"])
def test_one_is_opened_and_then_found(forge: Forge, repo: str) -> None:
    access = access_to(forge)
    first = access.pull_request(repo, WANTED)
    assert first == PullRequest(1, first.page, created=True)
    assert first.page.startswith(f"{forge.url}/acme/app/")
    assert access.pull_request(repo, WANTED) == PullRequest(1, first.page, created=False)
    assert len(forge.made) == 1
    assert forge.made[0]["title"] == "Fix the colour"
    assert sum(asked.startswith("POST") for asked in forge.requests) == 1


def test_a_lost_answer_is_looked_up(forge: Forge) -> None:
    access, repo = access_to(forge), f"https://{HOST}/acme/app"
    forge.cut_creation = True
    with pytest.raises(RetryLater):
        access.pull_request(repo, WANTED)
    assert access.pull_request(repo, WANTED).created is False
    assert len(forge.made) == 1


def test_a_draft_is_told_as_each_tells_it(forge: Forge) -> None:
    access_to(forge).pull_request(f"https://{HOST}/acme/app", {**WANTED, "draft": True})
    made = forge.made[0]
    assert made["draft"] or made["title"] in {"Draft: Fix the colour", "WIP: Fix the colour"}


@pytest.mark.parametrize("code", [500, 502, 429])
def test_a_forge_that_is_down_is_asked_again(forge: Forge, code: int) -> None:
    access, repo = access_to(forge), f"https://{HOST}/acme/app"
    forge.fail_with = [code]
    with pytest.raises(RetryLater) as e:
        access.pull_request(repo, WANTED)
    assert e.value.code == "forge-unavailable"
    assert access.pull_request(repo, WANTED).created


def test_a_refusal_is_told_without_the_token(forge: Forge) -> None:
    repo = f"https://{HOST}/acme/app"
    with pytest.raises(Rejected) as target:
        access_to(forge).pull_request(repo, {**WANTED, "target": "none"})
    assert target.value.code == "pull-request-refused"
    assert "base" in target.value.message
    with pytest.raises(Rejected) as token:
        access_to(forge, token="canary-wrong-token").pull_request(repo, WANTED)
    assert "401" in token.value.message
    assert "canary" not in token.value.message
    assert forge.made == []


def test_an_unknown_forge_has_to_be_named(forge: Forge) -> None:
    access = access_to(forge, forge=None)
    with pytest.raises(Rejected) as e:
        access.pull_request(f"https://{HOST}/acme/app", WANTED)
    assert e.value.code == "forge-unknown"
    assert '"forge"' in e.value.message


def test_without_a_token_there_is_no_pull_request(forge: Forge) -> None:
    with pytest.raises(Rejected) as e:
        access_to(forge).pull_request("https://elsewhere.example.org/acme/app", WANTED)
    assert e.value.code == "repo-unauthorized"


def resolving(monkeypatch: pytest.MonkeyPatch, name: str, *answers: str) -> list[str]:
    """`name` leads to these, one after the other; the names that were looked up."""
    asked: list[str] = []
    left, real = list(answers), socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **other: Any) -> Any:
        asked.append(str(host))
        return real(left.pop(0) if host == name else host, port, *rest, **other)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def in_this_process(repo: str, told: str) -> PullRequest:
    """What the access helper does, where a test can say what names lead to."""
    remote = url.parse(repo)
    assert remote is not None
    return operations.pull_request(operations.target(remote, Policy(credentials=told)), WANTED)


@pytest.mark.hostile(15)
@pytest.mark.parametrize(
    ("named", "address"),
    [(True, "169.254.169.254"), (True, "::ffff:100.100.100.200"), (False, "10.0.0.1")],
)
def test_an_api_at_an_address_that_may_not_be_is_not_asked(
    monkeypatch: pytest.MonkeyPatch, named: bool, address: str
) -> None:
    resolving(monkeypatch, "forge.example", address)
    entry: dict[str, Any] = {"match": "https://forge.example", "password": TOKEN}
    entry["forge"] = {"kind": "gitea", **({"api_url": "http://forge.example"} if named else {})}
    told = json.dumps({"credentials": [entry]})
    with pytest.raises(Rejected, match=r"forge\.example .* may not be used") as e:
        in_this_process("https://forge.example/acme/app", told)
    assert e.value.code == "repo-forbidden"


@pytest.mark.hostile(15)
def test_a_name_that_becomes_a_metadata_address_meanwhile_is_refused(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = urlsplit(forge.url).port
    asked = resolving(monkeypatch, "forge.example", "127.0.0.1", "169.254.169.254")
    api = {"kind": forge.kind, "api_url": f"http://forge.example:{port}"}
    entry = {"match": f"https://{HOST}", "password": TOKEN, "forge": api}
    with pytest.raises(Rejected) as e:
        in_this_process(f"https://{HOST}/acme/app", json.dumps({"credentials": [entry]}))
    assert e.value.code == "repo-forbidden"
    (seen,) = forge.exchanges  # it was looked for, and not made
    assert seen.headers["host"] == f"forge.example:{port}"
    assert asked.count("forge.example") == 2


@pytest.mark.hostile(15)
def test_a_redirect_of_an_api_is_not_followed() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(302, headers={"Location": "http://169.254.169.254/latest"})

    speaks = forges.GitLab("https://forge.example", "acme/app")
    with pytest.raises(Rejected) as e:
        forges.open_once(speaks, forges.Wanted(**WANTED), TOKEN, httpx.MockTransport(answer))
    assert (e.value.code, asked) == ("pull-request-refused", ["forge.example"])


def test_a_certificate_is_checked_against_the_name_and_not_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "forge.example", "127.0.0.1")
    with git_hosts.https(tmp_path) as host:  # its certificate is for 127.0.0.1
        transport = Pinned(private_allowed=True, ca=host.ca)
        with httpx.Client(transport=transport) as http:
            assert http.get(f"https://127.0.0.1:{host.port}/x").status_code == 401
            with pytest.raises(httpx.ConnectError, match=r"forge\.example"):
                http.get(f"https://forge.example:{host.port}/x")
    with git_hosts.https(tmp_path) as host:
        untrusting = httpx.Client(transport=Pinned(private_allowed=True))
        with untrusting, pytest.raises(httpx.ConnectError):
            untrusting.get(f"https://127.0.0.1:{host.port}/x")
