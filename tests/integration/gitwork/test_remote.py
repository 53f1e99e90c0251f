"""Repositories on a host, by https and by ssh, through C git's own servers."""

import base64
import http.server
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import git_hosts
import gitrepos
import paramiko
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from git_hosts import Host, HttpsHost, SshHost
from gitrepos import git
from wfhub_agent_runner.gitwork import access_broker
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.outcomes import Already, Conflict, Published, Refused
from wfhub_agent_runner.gitwork.workspaces import About, Snapshot, Workspaces
from wfhub_common import ids
from wfhub_common.errors import WfhubError
from wfhub_common.messages import PublishOrder

from .edits import in_overlay

FILES = {"README": b"hello\n", "src/a.py": b"print(1)\n" * 2000, ".gitignore": b"*.log\n"}
BRANCH, MARKER = "refs/heads/wfhub/tsk_x", "refs/wfhub/published/tsk_x"
UID = 64001
Made = Callable[..., RepoAccess]


@pytest.fixture
def shared() -> Iterator[Path]:
    with gitrepos.shared_folder() as folder:
        yield folder


@pytest.fixture
def repo(shared: Path) -> Path:
    return gitrepos.make(shared / "hosted" / "repo.git", FILES, bare=True)


@pytest.fixture
def web(repo: Path) -> Iterator[HttpsHost]:
    with git_hosts.https(repo.parent) as host:
        yield host


@pytest.fixture
def shell(repo: Path) -> Iterator[SshHost]:
    with git_hosts.ssh(repo.parent) as host:
        yield host


@pytest.fixture(params=["https", "ssh"])
def host(request: pytest.FixtureRequest) -> Host:
    found = request.getfixturevalue("web" if request.param == "https" else "shell")
    assert isinstance(found, Host)
    return found


def policy(host: Host, shared: Path, **fields: Any) -> Policy:
    """As an operator would set it: secrets in files that only their owner reads."""
    if isinstance(host, HttpsHost):
        secret = shared / "password"
        secret.write_text(host.password)
        entry = {
            "match": f"https://{host.name}",
            "username": host.user,
            "password_file": str(secret),
        }
    else:
        assert isinstance(host, SshHost)
        secret = shared / "key"
        secret.write_text(host.private_key)
        (shared / "known_hosts").write_text(host.known_hosts)
        fields = {"known_hosts_file": str(shared / "known_hosts"), **fields}
        entry = {"match": f"ssh://{host.name}", "private_key_file": str(secret)}
    secret.chmod(0o600)
    if isinstance(host, HttpsHost):
        (shared / "ca.pem").write_text(host.ca)
        fields = {"ca_file": str(shared / "ca.pem"), **fields}
    credentials = {"credentials": [entry]}
    return Policy(
        **{
            "hosts": (host.name,),
            "credentials": json.dumps(credentials),
            "remote_uid": UID if os.geteuid() == 0 else None,
            "timeout_s": 60,
            **fields,
        }
    )


@pytest.fixture(params=["direct", "broker"])
def access(request: pytest.FixtureRequest, host: Host, shared: Path) -> Iterator[RepoAccess]:
    allowed = policy(host, shared)
    if request.param == "direct":
        yield RepoAccess.direct(allowed)
        return
    with access_broker.start(allowed) as socket:
        yield RepoAccess.over_socket(socket, allowed)


def url_of(host: Host, name: str = "repo.git") -> str:
    assert isinstance(host, HttpsHost | SshHost)
    return host.url(name)


async def spaces_of(shared: Path, access: RepoAccess) -> Workspaces:
    (shared / "home").mkdir(exist_ok=True)
    spaces = Workspaces(shared / "home", access)
    await spaces.reap()
    return spaces


async def worked(spaces: Workspaces, url: str, script: str = "echo two >> README") -> Snapshot:
    prepared = await spaces.prepare(url, None)
    lease = await spaces.lease(prepared, ids.new_attempt_id())
    lease.folder.chmod(0o711)
    in_overlay(lease.layers, "/bin/sh", "-ec", script)
    about = About("tsk_x", lease.attempt_id, "Fix it", "", datetime(2025, 1, 2, tzinfo=UTC))
    found = await spaces.snapshot(lease, about)
    assert found is not None
    return found


def order(made: Snapshot) -> PublishOrder:
    return PublishOrder(
        bundle_digest="",
        commit=made.commit,
        base_commit="",
        branch_ref=BRANCH,
        marker_ref=MARKER,
    )


def refused(do: Callable[[], object]) -> WfhubError:
    with pytest.raises(WfhubError) as e:
        do()
    return e.value


async def test_from_a_remote_to_a_branch_on_it(
    host: Host, access: RepoAccess, shared: Path, repo: Path
) -> None:
    spaces = await spaces_of(shared, access)
    url = url_of(host)
    made = await worked(spaces, url)
    assert await spaces.publish(url, made.bundle, order(made)) == Published(made.commit)
    assert git(repo, "rev-parse", BRANCH, MARKER).split() == [made.commit] * 2
    assert git(repo, "rev-parse", f"{BRANCH}^") == git(repo, "rev-parse", "main")
    assert git(repo, "show", f"{BRANCH}:README") == "hello\ntwo"
    git(repo, "fsck", "--strict")
    assert await spaces.publish(url, made.bundle, order(made)) == Already(made.commit)
    # Merged and deleted, or worked on since: it was published once, and is not again.
    git(repo, "update-ref", "-d", BRANCH)
    assert await spaces.publish(url, made.bundle, order(made)) == Already(made.commit)
    assert git(repo, "for-each-ref", BRANCH) == ""


async def test_a_second_commit_brings_only_what_is_new(
    host: Host, access: RepoAccess, shared: Path, repo: Path
) -> None:
    work = repo.with_name("repo.git-work")
    noise = os.urandom(200_000)
    gitrepos.write(work, {"big": noise})
    git(work, "add", "-A")
    git(work, "commit", "-qm", "big")
    git(work, "push", "-q", repo, "main")
    spaces = await spaces_of(shared, access)
    await spaces.prepare(url_of(host), None)
    first = host.sent_bytes
    assert first > len(noise)
    gitrepos.write(work, {"src/a.py": b"print(2)\n"})
    git(work, "commit", "-qam", "second")
    git(work, "push", "-q", repo, "main")
    prepared = await spaces.prepare(url_of(host), "main")
    assert prepared.commit == git(work, "rev-parse", "HEAD")
    assert prepared.tree == git(work, "rev-parse", "HEAD^{tree}")
    assert (prepared.lower_dirs[-1] / "src/a.py").read_bytes() == b"print(2)\n"
    assert (prepared.lower_dirs[0] / "big").read_bytes() == noise
    assert host.sent_bytes - first < 20_000


def test_names_are_resolved_as_git_does(host: Host, access: RepoAccess, repo: Path) -> None:
    url, head = url_of(host), git(repo, "rev-parse", "main")
    git(repo, "tag", "-am", "one", "v1", "main")
    git(repo, "branch", "develop", "main")
    found = access.resolve(url, None)
    assert (found.commit, found.ref, found.default_branch) == (head, "refs/heads/main", "main")
    assert access.resolve(url, "v1").commit == head
    assert access.resolve(url, "v1").ref == "refs/tags/v1"
    assert access.resolve(url, "refs/heads/develop").ref == "refs/heads/develop"
    assert access.resolve(url, head).commit == head
    missing = refused(lambda: access.resolve(url, "devlop"))
    assert (missing.code, missing.fields["available"]) == ("base-not-found", ["develop"])


def test_a_commit_the_host_does_not_have(host: Host, access: RepoAccess, shared: Path) -> None:
    wanted = "f" * 40
    assert refused(lambda: access.fetch(url_of(host), wanted, [], shared / "pack")).code == (
        "base-not-found"
    )


def test_what_is_not_there(host: Host, access: RepoAccess) -> None:
    assert refused(lambda: access.resolve(url_of(host, "none.git"), None)).code == "repo-not-found"


async def test_a_lost_reply_is_looked_up_and_nothing_is_published_twice(
    web: HttpsHost, shared: Path, repo: Path
) -> None:
    spaces = await spaces_of(shared, RepoAccess.direct(policy(web, shared)))
    made = await worked(spaces, web.url("repo.git"))
    web.cut_after = "receive-pack"
    assert await spaces.publish(web.url("repo.git"), made.bundle, order(made)) == (
        Already(made.commit)
    )
    assert git(repo, "rev-parse", BRANCH, MARKER).split() == [made.commit] * 2
    assert sum("POST /repo.git/git-receive-pack" in asked for asked in web.requests) == 1


@pytest.mark.parametrize("ref", [BRANCH, MARKER])
async def test_what_another_put_there_is_left_alone(
    host: Host, access: RepoAccess, shared: Path, repo: Path, ref: str
) -> None:
    spaces = await spaces_of(shared, access)
    made = await worked(spaces, url_of(host))
    other = git(repo, "rev-parse", "main")
    git(repo, "update-ref", ref, other)
    assert await spaces.publish(url_of(host), made.bundle, order(made)) == Conflict(ref, other)
    assert git(repo, "for-each-ref", "--format=%(refname)", BRANCH, MARKER) == ref


async def test_a_ref_made_while_the_push_is_on_its_way_is_a_conflict(
    web: HttpsHost, shared: Path, repo: Path
) -> None:
    spaces = await spaces_of(shared, RepoAccess.direct(policy(web, shared)))
    made = await worked(spaces, web.url("repo.git"))
    other = git(repo, "rev-parse", "main")

    def race(path: str) -> None:
        if path.endswith("/git-receive-pack"):
            git(repo, "update-ref", BRANCH, other)

    web.at_request = race
    assert await spaces.publish(web.url("repo.git"), made.bundle, order(made)) == (
        Conflict(BRANCH, other)
    )
    assert git(repo, "for-each-ref", MARKER) == ""


def hook(repo: Path, name: str, text: str) -> None:
    (repo / "hooks").mkdir(exist_ok=True)
    (repo / "hooks" / name).write_text(f"#!/bin/sh\n{text}\n")
    (repo / "hooks" / name).chmod(0o755)


async def test_where_markers_are_refused_the_branch_is_its_own(
    host: Host, access: RepoAccess, shared: Path, repo: Path
) -> None:
    hook(repo, "update", 'case "$1" in refs/wfhub/*) echo "not here" >&2; exit 1;; esac')
    spaces = await spaces_of(shared, access)
    made = await worked(spaces, url_of(host))
    assert await spaces.publish(url_of(host), made.bundle, order(made)) == Published(made.commit)
    assert git(repo, "rev-parse", BRANCH) == made.commit
    assert git(repo, "for-each-ref", MARKER) == ""
    assert await spaces.publish(url_of(host), made.bundle, order(made)) == Already(made.commit)


MARKERS_REFUSED = 'case "$1" in refs/wfhub/*) echo "not here" >&2; exit 1;; esac'


def merged(repo: Path, how: str, commit: str) -> None:
    """As somebody else would, on the host; then the branch is deleted."""
    main = git(repo, "rev-parse", "main")
    if how == "fast-forward":
        git(repo, "update-ref", "refs/heads/main", commit)
    elif how == "merged":
        tree = git(repo, "rev-parse", f"{commit}^{{tree}}")
        other = git(repo, "commit-tree", "-p", main, "-m", "meanwhile", f"{main}^{{tree}}")
        made = git(repo, "commit-tree", "-p", other, "-p", commit, "-m", "merge", tree)
        last = git(repo, "commit-tree", "-p", made, "-m", "later", tree)
        git(repo, "update-ref", "refs/heads/main", last)
    elif how == "not merged":
        other = git(repo, "commit-tree", "-p", main, "-m", "meanwhile", f"{main}^{{tree}}")
        git(repo, "update-ref", "refs/heads/main", other)
    git(repo, "update-ref", "-d", BRANCH)


@pytest.mark.parametrize(
    ("how", "filtered", "atomic"),
    [
        ("fast-forward", "true", "true"),
        ("merged", "true", "false"),
        ("merged", "false", "true"),
    ],
)
async def test_without_markers_a_merged_branch_is_not_published_again(
    host: Host,
    access: RepoAccess,
    shared: Path,
    repo: Path,
    how: str,
    filtered: str,
    atomic: str,
) -> None:
    hook(repo, "update", MARKERS_REFUSED)
    git(repo, "config", "uploadpack.allowFilter", filtered)
    git(repo, "config", "receive.advertiseAtomic", atomic)
    spaces = await spaces_of(shared, access)
    made = await worked(spaces, url_of(host))
    assert await spaces.publish(url_of(host), made.bundle, order(made)) == Published(made.commit)
    merged(repo, how, made.commit)
    assert await spaces.publish(url_of(host), made.bundle, order(made)) == Already(made.commit)
    assert git(repo, "for-each-ref", BRANCH, MARKER) == ""


async def test_without_markers_a_branch_that_was_not_merged_is_published(
    host: Host, access: RepoAccess, shared: Path, repo: Path
) -> None:
    hook(repo, "update", MARKERS_REFUSED)
    spaces = await spaces_of(shared, access)
    made = await worked(spaces, url_of(host))
    assert await spaces.publish(url_of(host), made.bundle, order(made)) == Published(made.commit)
    merged(repo, "not merged", made.commit)  # its objects are there still
    assert await spaces.publish(url_of(host), made.bundle, order(made)) == Published(made.commit)
    assert git(repo, "rev-parse", BRANCH) == made.commit


async def test_a_lost_answer_and_a_merge_in_between_are_one_publication(
    web: HttpsHost, shared: Path, repo: Path
) -> None:
    hook(repo, "update", MARKERS_REFUSED)
    spaces = await spaces_of(shared, RepoAccess.direct(policy(web, shared)))
    made = await worked(spaces, web.url("repo.git"))
    pushes = 0

    def at_request(path: str) -> None:
        nonlocal pushes
        if path.endswith("/git-receive-pack"):
            pushes += 1
            if pushes == 2:  # the first was the marker's, with the branch
                web.cut_after = "receive-pack"
        elif pushes == 2 and git(repo, "for-each-ref", BRANCH):
            merged(repo, "merged", made.commit)

    web.at_request = at_request
    assert await spaces.publish(web.url("repo.git"), made.bundle, order(made)) == (
        Already(made.commit)
    )
    assert git(repo, "for-each-ref", BRANCH, MARKER) == ""


async def test_a_host_that_refuses_the_branch_says_so(
    host: Host, access: RepoAccess, shared: Path, repo: Path
) -> None:
    hook(repo, "update", 'case "$1" in refs/heads/*) exit 1;; esac')
    spaces = await spaces_of(shared, access)
    made = await worked(spaces, url_of(host))
    result = await spaces.publish(url_of(host), made.bundle, order(made))
    assert isinstance(result, Refused)
    assert result.code == "remote-refused"
    assert "hook declined" in result.message
    assert git(repo, "for-each-ref", BRANCH, MARKER) == ""


async def test_a_host_without_atomic_pushes(
    host: Host, access: RepoAccess, shared: Path, repo: Path
) -> None:
    git(repo, "config", "receive.advertiseAtomic", "false")
    spaces = await spaces_of(shared, access)
    made = await worked(spaces, url_of(host))
    assert await spaces.publish(url_of(host), made.bundle, order(made)) == Published(made.commit)
    assert git(repo, "rev-parse", BRANCH, MARKER).split() == [made.commit] * 2


@pytest.mark.hostile(22)
def test_the_credential_is_in_no_other_process_and_no_message(web: HttpsHost, shared: Path) -> None:
    seen: list[str] = []

    def look(_: str) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    if web.password.encode() in (process / name).read_bytes():
                        seen.append(f"{process.name} {name}")
                except OSError:
                    continue

    web.at_request = look
    with access_broker.start(policy(web, shared)) as socket:
        access = RepoAccess.over_socket(socket, policy(web, shared))
        access.resolve(web.url("repo.git"), None)
        assert web.requests
        web.password, known = secrets.token_hex(16), web.password
        wrong = refused(lambda: access.resolve(web.url("repo.git"), None))
    assert seen == []
    assert wrong.code == "repo-unauthorized"
    assert known not in str(wrong)


@pytest.mark.hostile(22)
async def test_nothing_of_the_credential_stays_with_the_runner(
    host: Host, access: RepoAccess, shared: Path
) -> None:
    spaces = await spaces_of(shared, access)
    await worked(spaces, url_of(host))
    secret = host.password if isinstance(host, HttpsHost) else host.private_key.split("\n")[2]  # type: ignore[attr-defined]
    for file in (shared / "home").rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert secret.encode() not in file.read_bytes(), file


def test_only_the_named_authority_is_trusted(web: HttpsHost, shared: Path) -> None:
    access = RepoAccess.direct(policy(web, shared, ca_file=""))
    error = refused(lambda: access.resolve(web.url("repo.git"), None))
    assert error.code == "repo-tls"
    assert web.requests == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ((302, {"Location": "https://elsewhere.example/x.git/info/refs"}), "repo-moved"),
        ((200, {"Content-Type": "text/html"}), "repo-not-a-repository"),
        ((403, {}), "repo-unauthorized"),
        ((404, {}), "repo-not-found"),
        ((503, {}), "repo-unreachable"),
        ((429, {}), "repo-unreachable"),
    ],
)
def test_other_answers_of_a_host(
    web: HttpsHost, shared: Path, answer: tuple[int, dict[str, str]], code: str
) -> None:
    web.answer = answer
    access = RepoAccess.direct(policy(web, shared))
    assert refused(lambda: access.resolve(web.url("repo.git"), None)).code == code


@pytest.mark.hostile(15)
def test_hosts_are_the_operators_to_name(host: Host, shared: Path) -> None:
    for allowed in ((), ("127.0.0.1",), ("git.example.org",)):
        resolve = RepoAccess.direct(policy(host, shared, hosts=allowed)).resolve
        assert refused(partial(resolve, url_of(host), None)).code == "repo-forbidden"
    assert host.requests == []


def test_an_unknown_host_key_is_named_and_nothing_is_said_to_it(
    shell: SshHost, shared: Path
) -> None:
    unknown = RepoAccess.direct(policy(shell, shared, known_hosts_file=""))
    error = refused(lambda: unknown.resolve(shell.url("repo.git"), None))
    assert error.code == "host-key-unknown"
    assert "SHA256:" in error.message
    access = RepoAccess.direct(policy(shell, shared))
    shell.host_key = paramiko.RSAKey.generate(2048)
    assert refused(lambda: access.resolve(shell.url("repo.git"), None)).code == "host-key-changed"
    assert shell.requests == []


def test_a_key_the_host_does_not_know(shell: SshHost, shared: Path) -> None:
    access = RepoAccess.direct(policy(shell, shared))
    shell.deploy_key = paramiko.ECDSAKey.generate()
    assert refused(lambda: access.resolve(shell.url("repo.git"), None)).code == "repo-unauthorized"


def test_an_scp_like_address_is_relative_to_the_users_home(shell: SshHost, shared: Path) -> None:
    access = RepoAccess.direct(policy(shell, shared))
    found = access.resolve(f"ssh://git@{shell.name}/~/repo.git", None)
    assert found.default_branch == "main"
    assert shell.requests == ["git-upload-pack 'repo.git'"]


@contextmanager
def forge(token: str, key: rsa.RSAPublicKey) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """GitHub's one operation that is used; the claims it was shown."""
    shown: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            signed, _, signature = self.headers["Authorization"].split()[1].rpartition(".")
            raw = base64.urlsafe_b64decode(signature + "==")
            key.verify(raw, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            claims = base64.urlsafe_b64decode(signed.split(".")[1] + "==")
            shown.append({"path": self.path, **json.loads(claims)})
            body = json.dumps({"token": token}).encode()
            self.send_response(201)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", shown
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_github_apps_token_is_made_when_it_is_needed(web: HttpsHost, shared: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    web.user, web.password = "x-access-token", "ghs-minted"
    with forge(web.password, key.public_key()) as (api_url, shown):
        app = {"app_id": 7, "installation_id": 8, "private_key": pem.decode(), "api_url": api_url}
        entry = {"match": f"https://{web.name}", "github_app": app}
        allowed = policy(web, shared, credentials=json.dumps({"credentials": [entry]}))
        RepoAccess.direct(allowed).resolve(web.url("repo.git"), None)
    assert [(asked["path"], asked["iss"]) for asked in shown] == [
        ("/app/installations/8/access_tokens", "7")
    ]
    assert shown[0]["exp"] - shown[0]["iat"] <= 600


async def test_a_damaged_bundle_is_never_pushed(web: HttpsHost, shared: Path, repo: Path) -> None:
    spaces = await spaces_of(shared, RepoAccess.direct(policy(web, shared)))
    made = await worked(spaces, web.url("repo.git"))
    content = bytearray(made.bundle.read_bytes())
    content[-30] ^= 1
    made.bundle.write_bytes(content)
    result = await spaces.publish(web.url("repo.git"), made.bundle, order(made))
    assert isinstance(result, Refused)
    assert result.code == "bundle-invalid"
    assert git(repo, "for-each-ref", BRANCH, MARKER) == ""
