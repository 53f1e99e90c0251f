"""Pull requests on three kinds of forge: opened once, found again, refused in words."""

import json
from collections.abc import Iterator
from typing import Any

import forge_double
import pytest
from forge_double import Forge
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.outcomes import PullRequest
from wfhub_common.errors import Rejected, RetryLater

TOKEN = "canary-forge-token-1"
WANTED = {
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
