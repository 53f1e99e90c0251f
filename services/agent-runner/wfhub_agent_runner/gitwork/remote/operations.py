"""Resolve, fetch and publish on a remote: the access helper's three operations, over a network.

Fetch takes one commit without its history, less what a commit known here has. Publish is one
push, create-only by the protocol's expected old value (the null id): the host decides, and what it
decided is looked for before anything is pushed again.
Raises: Rejected, RetryLater; messages never hold a credential.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any

from dulwich.client import GitClient, LsRemoteResult, SSHGitClient
from dulwich.errors import GitProtocolError, HangupException, NotGitRepository, SendPackError
from dulwich.objects import ObjectID
from dulwich.protocol import PEELED_TAG_SUFFIX
from dulwich.refs import Ref
from wfhub_common.errors import Rejected, RetryLater

from wfhub_agent_runner.gitwork import limits, outcomes
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.remote import credentials, hosts, url
from wfhub_agent_runner.gitwork.remote.credentials import Secret
from wfhub_agent_runner.gitwork.remote.trusted import read_settings
from wfhub_agent_runner.gitwork.remote.url import Remote
from wfhub_agent_runner.gitwork.source import Resolved, base_not_found

_BRANCHES = b"refs/heads/"
_FULL_ID = re.compile(r"[0-9a-f]{40}\Z")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")
_MESSAGE_CHARS_MAX = 500
_FETCH_TRIES = 3
_NO_SUCH_REPOSITORY = re.compile(
    "not found|does not exist|not (appear to be )?a git repository", re.IGNORECASE
)
_NO_SUCH_COMMIT = re.compile("not our ref|unadvertised object|bad object|no such", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """A remote and all that opens it, read by whoever may read the secret's file."""

    remote: Remote
    secret: Secret
    api_secret: Secret  # of the host's https side, which answers for pull requests
    hosts: tuple[str, ...]
    known_hosts: str
    ca: str


def target(remote: Remote, policy: Policy) -> Target:
    hosts.check(remote, policy.hosts)
    text = policy.credentials or read_settings(policy.credentials_file)
    secret = credentials.find(remote, text)
    web = remote if remote.scheme == "https" else url.web_side(remote)
    known_hosts, ca = read_settings(policy.known_hosts_file), read_settings(policy.ca_file)
    api_secret = credentials.find(web, text)
    return Target(remote, secret, api_secret, policy.hosts, known_hosts, ca)


def resolve(at: Target, base: str | None) -> Resolved:
    """As `source.resolve`; the tree is not known before the commit is here, and is empty."""
    with spoken(at) as client:
        wanted = base or "HEAD"
        named = [t % wanted.encode() for t in (b"refs/%s", b"refs/tags/%s", b"refs/heads/%s")]
        found = client.get_refs(
            at.remote.path.encode(),
            ref_prefix=[b"HEAD", wanted.encode(), *named],
        )
        default = _default_branch(found)
        direct = [wanted.encode()] if wanted.startswith("refs/") or wanted == "HEAD" else []
        for name in (*direct, *named):
            oid = found.refs.get(Ref(name + PEELED_TAG_SUFFIX)) or found.refs.get(Ref(name))
            if oid is not None:
                if name == b"HEAD":
                    return Resolved(
                        oid.decode(), "", f"refs/heads/{default}" if default else "", default
                    )
                return Resolved(oid.decode(), "", name.decode(), default)
        if _FULL_ID.match(wanted):
            return Resolved(wanted, "", "", default)
        have = client.get_refs(at.remote.path.encode(), ref_prefix=[_BRANCHES]).refs
        branches = sorted(name for name in have if name.startswith(_BRANCHES))
        if not branches and base is None:
            raise Rejected("repo-empty", "the repository has no commit yet; make a first one")
        raise base_not_found(wanted, list(branches))


def _default_branch(found: LsRemoteResult) -> str:
    for name, points_to in found.symrefs.items():
        if name == b"HEAD" and points_to.startswith(_BRANCHES):
            return points_to.removeprefix(_BRANCHES).decode("utf-8", "surrogateescape")
    return ""


class Known:
    """The haves, for dulwich: commits whose trees are here and whose parents are not."""

    def __init__(self, have: Sequence[str]) -> None:
        oids = [ObjectID(oid.encode()) for oid in have]
        self.shallow = set(oids)
        self._left = iter(oids)

    def __next__(self) -> ObjectID | None:
        return next(self._left, None)

    def __iter__(self) -> "Known":
        return self

    def ack(self, oid: ObjectID) -> None:
        pass

    def nak(self) -> None:
        pass


def fetch(at: Target, want: str, have: Sequence[str], into: IO[bytes]) -> outcomes.Fetched:
    """A thin pack: what it is made against is in `have`."""
    size = 0

    def take(chunk: bytes) -> int:
        nonlocal size
        size += len(chunk)
        if size > limits.PACK_BYTES_MAX:
            raise Rejected(
                "repo-too-large",
                f"one commit packs to more than {limits.PACK_BYTES_MAX} bytes; too much",
            )
        return into.write(chunk)

    for left in reversed(range(_FETCH_TRIES)):
        try:
            with spoken(at, want) as client:
                client.fetch_pack(
                    at.remote.path.encode(),
                    lambda refs, depth=None: [ObjectID(want.encode())],
                    Known(have[: limits.HAVES_MAX]),
                    take,
                    depth=1,
                    ref_prefix=[b"HEAD"],
                )
            break
        except RetryLater as e:
            # A host ends the connection without a word when it lacks the commit.
            if size or not isinstance(e.__cause__, HangupException):
                raise
            if not left:
                raise _no_commit(at, want, e.message) from e
    into.seek(0)
    header = into.read(12)
    if len(header) < 12 or not header.startswith(b"PACK"):
        raise RetryLater("repo-unavailable", f"{at.remote.authority} sent no pack")
    return outcomes.Fetched(struct.unpack(">4sII", header)[2], size)


@contextmanager
def spoken(at: Target, wanted: str = "") -> Iterator[GitClient]:
    """A client for the target; what goes wrong in its words becomes one of ours."""
    secret = _minted(at.secret)
    addresses = hosts.resolved(at.remote, at.hosts)
    client: GitClient
    if at.remote.scheme == "https":  # imported when needed: most requests are for local paths
        from wfhub_agent_runner.gitwork.remote import https

        client = https.client(at.remote, addresses, secret.username, secret.password, at.ca)
    else:
        from wfhub_agent_runner.gitwork.remote import ssh

        client = ssh.client(at.remote, addresses, secret.private_key, at.known_hosts)
    host = at.remote.authority
    try:
        yield client
    except NotGitRepository as e:
        raise _not_found(at) from e
    except SendPackError as e:
        raise RetryLater("repo-unavailable", f"{host} took no pack: {_shown(e, secret)}") from e
    except (GitProtocolError, HangupException, AssertionError, ValueError, OSError) as e:
        said = _shown(e, secret)
        if wanted and _NO_SUCH_COMMIT.search(said):
            raise _no_commit(at, wanted, said) from e
        if isinstance(client, SSHGitClient) and _NO_SUCH_REPOSITORY.search(said):
            raise _not_found(at) from e
        raise RetryLater("repo-unavailable", f"{host} broke off: {said}") from e
    finally:
        client.close()


def _minted(secret: Secret) -> Secret:
    """With the password that an app has to ask for first."""
    if secret.github_app is None:
        return secret
    from wfhub_agent_runner.gitwork.remote import github_app

    return replace(secret, password=github_app.installation_token(secret.github_app))


def pull_request(at: Target, asked: dict[str, Any]) -> outcomes.PullRequest:
    """`asked`: the fields of forges.Wanted; `target` empty: the default branch."""
    from wfhub_agent_runner.gitwork.remote import forges
    from wfhub_agent_runner.gitwork.remote.pinned import Pinned

    secret = _minted(at.api_secret)
    if not secret.password:
        raise Rejected(
            "repo-unauthorized",
            f"the runner has no token for the API of {at.remote.host}: give it an https entry in"
            " GIT_CREDENTIALS_FILE",
        )
    speaks = forges.adapter(at.remote, secret.forge)
    target_branch = asked["target"] or resolve(at, None).default_branch
    wanted = forges.Wanted(**{**asked, "target": target_branch})
    named = bool(at.hosts) or bool(secret.forge and secret.forge.api_url)
    transport = Pinned(private_allowed=named, ca=at.ca)
    return forges.open_once(speaks, wanted, secret.password, transport)


def _no_commit(at: Target, wanted: str, said: str) -> Rejected:
    return Rejected(
        "base-not-found",
        f"{at.remote.authority} has no commit {wanted} that may be fetched ({said}); name a branch",
    )


def _not_found(at: Target) -> Rejected:
    return Rejected(
        "repo-not-found", f"{at.remote} is not there, or the runner's credential may not see it"
    )


def _shown(e: BaseException, secret: Secret) -> str:
    text = secret.masked(str(e) or type(e).__name__)
    return _UNPRINTABLE.sub(" ", text).strip()[:_MESSAGE_CHARS_MAX]
