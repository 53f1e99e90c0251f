"""Git credentials: which one a URL gets, and that a bad file is told without its secrets."""

import json
from pathlib import Path

import pytest
from wfhub_agent_runner.gitwork.remote import credentials, url
from wfhub_agent_runner.gitwork.remote.url import Remote
from wfhub_common.errors import Rejected

TEXT = json.dumps(
    {
        "credentials": [
            {"match": "https://git.example.org", "username": "all", "password": "p-all-1"},
            {"match": "https://git.example.org/acme/", "password": "p-acme-1"},
            {"match": "ssh://git@git.example.org/acme", "private_key": "k-acme-1"},
            {"match": "ssh://git.example.org", "private_key": "k-all-1"},
        ]
    }
)


def remote(repo: str) -> Remote:
    found = url.parse(repo)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("repo", "value"),
    [
        ("https://git.example.org/other/x", "p-all-1"),
        ("https://git.example.org/acme/x.git", "p-acme-1"),
        ("https://git.example.org/acme2/x.git", "p-all-1"),
        ("https://git.example.org:8443/acme/x.git", ""),
        ("https://git.example.org.evil.org/acme/x.git", ""),
        ("git@git.example.org:acme/x.git", "k-acme-1"),
        ("ssh://other@git.example.org/acme/x.git", "k-all-1"),
    ],
)
def test_the_longest_match_counts_on_whole_parts(repo: str, value: str) -> None:
    found = credentials.find(remote(repo), TEXT)
    assert (found.password or found.private_key) == value


def test_a_secret_is_read_from_its_file_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("canary-1\n")
    entry = {"match": "https://h.example.org", "password_file": str(tmp_path / "token")}
    found = credentials.find(
        remote("https://h.example.org/x"), json.dumps({"credentials": [entry]})
    )
    assert found.password == "canary-1"
    assert "canary" not in repr(found)
    assert found.masked("it said canary-1!") == "it said ***!"


@pytest.mark.parametrize(
    "text",
    [
        "canary",
        "[]",
        '{"credentials": {}}',
        '{"credentials": ["canary"]}',
        '{"credentials": [{"match": "https://h", "password": "canary", "key": 1}]}',
        '{"credentials": [{"match": "https://h", "password": "canary", "private_key": "canary"}]}',
        '{"credentials": [{"match": "https://h"}]}',
        '{"credentials": [{"match": "/srv", "password": "canary"}]}',
        '{"credentials": [{"password": "canary"}]}',
        '{"credentials": [{"match": "https://h", "password_file": "/nonexistent/x"}]}',
        '{"credentials": [{"match": "https://h", "github_app": {"app_id": 1}}]}',
        '{"credentials": [{"match": "http://h", "password": "canary"}]}',
    ],
)
def test_a_bad_file_is_told_without_its_secrets(text: str) -> None:
    with pytest.raises(Rejected) as e:
        credentials.check(text)
    assert e.value.code == "git-credentials"
    assert "canary" not in e.value.message


def test_no_credentials_are_fine() -> None:
    credentials.check("")
    assert credentials.find(remote("https://h.example.org/x"), "") == credentials.Secret()
