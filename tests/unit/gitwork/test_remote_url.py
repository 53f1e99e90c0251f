"""Remote addresses: what they mean, what is refused, and one text for each repository."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_agent_runner.gitwork.remote import hosts, url
from wfhub_common import addresses
from wfhub_common.errors import Rejected, RetryLater


@pytest.mark.parametrize(
    ("repo", "canonical"),
    [
        ("https://git.example.org/a/b.git", "https://git.example.org/a/b.git"),
        ("HTTPS://Git.Example.org:443/a/b.git/", "https://git.example.org/a/b.git"),
        ("https://git.example.org:8443/a", "https://git.example.org:8443/a"),
        ("ssh://git.example.org/a/b", "ssh://git@git.example.org/a/b"),
        ("ssh://me@git.example.org:22/a/b", "ssh://me@git.example.org/a/b"),
        ("git@git.example.org:a/b.git", "ssh://git@git.example.org/~/a/b.git"),
        ("ssh://git@git.example.org/~/a/b.git", "ssh://git@git.example.org/~/a/b.git"),
        ("git@git.example.org:/a/b.git", "ssh://git@git.example.org/a/b.git"),
        ("https://[2001:db8::1]:8443/a", "https://[2001:db8::1]:8443/a"),
    ],
)
def test_a_remote_has_one_text(repo: str, canonical: str) -> None:
    found = url.parse(repo)
    assert found is not None
    assert str(found) == canonical
    assert url.parse(str(found)) == found


@pytest.mark.parametrize("repo", ["/srv/x", "file:///srv/x", "ext::sh -c id", "-oProxyCommand=x:y"])
def test_what_is_no_remote_is_left_to_the_rules_for_paths(repo: str) -> None:
    assert url.parse(repo) is None


@pytest.mark.parametrize(
    "repo",
    [
        "https://user:secret@git.example.org/a",
        "https://token@git.example.org/a",
        "ssh://git:secret@git.example.org/a",
        "https://git.example.org/",
        "https://git.example.org",
        "https://git.example.org/a?b=c",
        "https://git.example.org/a/../b",
        "https://git.example.org/a/%2e%2e/b",
        "https://git.example.org/a%0ab",
        "https://git.example.org:99999/a",
        "https://-oProxyCommand=id/a",
        "https://git_example$.org/a",
        "ssh://-oProxyCommand=id@host/a",
        "git@host:-x",
        "git@-host:x",
    ],
)
@pytest.mark.hostile(15)
def test_hostile_addresses_are_refused(repo: str) -> None:
    with pytest.raises(Rejected) as e:
        url.parse(repo)
    assert e.value.code == "repo-forbidden"
    assert "secret" not in e.value.message


@pytest.mark.parametrize(
    "repo", ["http://git.example.org/a", "git://git.example.org/a", "ftp://a/b"]
)
def test_other_schemes_are_refused(repo: str) -> None:
    with pytest.raises(Rejected) as e:
        url.parse(repo)
    assert e.value.code == "scheme-unsupported"


@given(st.text(max_size=60))
def test_any_text_is_a_remote_or_none_or_refused(text: str) -> None:
    for repo in (text, f"https://{text}", f"ssh://{text}", f"git@{text}:x"):
        try:
            found = url.parse(repo)
        except Rejected:
            continue
        if found is not None:
            assert url.parse(str(found)) == found
            assert not found.host.startswith("-")
            assert ".." not in found.path.split("/")


@pytest.mark.parametrize(
    ("entry", "repo", "named"),
    [
        ("git.example.org", "https://git.example.org/a", True),
        ("git.example.org", "ssh://git.example.org/a", True),
        ("git.example.org", "https://git.example.org:8443/a", False),
        ("git.example.org:8443", "https://git.example.org:8443/a", True),
        ("example.org", "https://git.example.org/a", False),
        ("*.example.org", "https://git.example.org/a", True),
        ("*.example.org", "https://example.org/a", False),
        ("*.example.org", "https://evilexample.org/a", False),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443/a", True),
        ("2001:db8::1", "https://[2001:db8::1]/a", True),
    ],
)
def test_the_operators_list_names_hosts_exactly(entry: str, repo: str, named: bool) -> None:
    remote = url.parse(repo)
    assert remote is not None
    if named:
        hosts.check(remote, (entry,))
    else:
        with pytest.raises(Rejected, match="GIT_HOSTS"):
            hosts.check(remote, (entry,))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.64.0.1", "0.0.0.0", "::1"),
        *("fc00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::", "224.0.0.1"),
    ],
)
def test_private_addresses_need_the_operators_word(address: str) -> None:
    assert addresses.refused(address, private_allowed=False) is not None


@pytest.mark.parametrize(
    "address",
    [
        *("169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254"),
        *("100.100.100.200", "168.63.129.16", "fe80::1%eth0", "2002:a9fe:a9fe::1", "224.0.0.1"),
    ],
)
@pytest.mark.hostile(15)
def test_metadata_addresses_are_never_allowed(address: str) -> None:
    assert addresses.refused(address, private_allowed=True) is not None


@pytest.mark.parametrize("address", ["140.82.121.3", "2606:50c0:8000::153"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert addresses.refused(address, private_allowed=False) is None


def test_a_named_private_host_is_allowed() -> None:
    assert addresses.refused("10.0.0.5", private_allowed=True) is None


def answering(monkeypatch: pytest.MonkeyPatch, *answers: int) -> list[float]:
    """A resolver that gives these errors (0: an address), and how long was waited before each."""
    left, waits = list(answers), [0.0]

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        if error := left.pop(0):
            raise socket.gaierror(error, "told by the test")
        return [(2, 1, 6, "", ("203.0.113.7", 443))]

    monkeypatch.setattr(hosts.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(hosts.time, "sleep", waits.append)
    return waits


def test_name_servers_that_do_not_answer_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a cluster are, for the minute in which it finds out that their node is gone."""
    remote = url.parse("https://git.example.org/a")
    assert remote is not None
    waits = answering(monkeypatch, socket.EAI_AGAIN, socket.EAI_AGAIN, 0)
    assert hosts.resolved(remote, ("git.example.org",)) == [("203.0.113.7", 443)]
    assert waits == [0.0, hosts.NAME_RETRY_S, hosts.NAME_RETRY_S]


def test_a_name_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = url.parse("https://git.example.org/a")
    assert remote is not None
    waits = answering(monkeypatch, socket.EAI_NONAME)
    with pytest.raises(RetryLater, match="cannot be resolved"):
        hosts.resolved(remote, ())
    assert waits == [0.0]
