"""The runner's side of the access helper: one class, two ways to a helper process.

`RepoAccess.direct(policy)` starts a process of the runner's own uid for each request;
`RepoAccess.over_socket(sock, policy)` asks the broker, whose helper runs as the repository's
owner. The words on the wire are the same (access). Methods block; call them in a thread, or use
the `async` facade in `workspaces`.
Raises: what the helper raised; RetryLater (`repo-access-failed`) when it gave no whole answer.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from wfhub_common.errors import RetryLater, from_wire

from wfhub_agent_runner.gitwork import limits, outcomes
from wfhub_agent_runner.gitwork.access_broker import ENVIRONMENT
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.outcomes import Fetched, PublishResult
from wfhub_agent_runner.gitwork.source import Resolved

_CHUNK_BYTES = 1024 * 1024
_GRACE_S = 5.0  # the helper's own alarm comes first


@dataclass(frozen=True)
class Use:
    """On whose behalf a repository is opened. `apply`: its own files are to be written."""

    project: str = ""
    apply: bool = False


NOBODY = Use()


class RepoAccess:
    def __init__(self, connect: Callable[[], Any], policy: Policy) -> None:
        self._connect = connect  # () -> context manager of a connected socket
        self.policy = policy

    @classmethod
    def direct(cls, policy: Policy) -> Self:
        return cls(lambda: _process(policy), policy)

    @classmethod
    def over_socket(cls, broker: socket.socket, policy: Policy) -> Self:
        return cls(lambda: _brokered(broker), policy)

    def resolve(self, repo: str, ref: str | None, use: Use = NOBODY) -> Resolved:
        return Resolved(**self._ask({"op": "resolve", "repo": repo, "ref": ref, **asdict(use)}))

    def fetch(
        self, repo: str, want: str, have: Sequence[str], pack: Path, use: Use = NOBODY
    ) -> Fetched:
        """The pack of `want` less what a commit of `have` (newest first) has, into `pack`."""
        request = {"op": "fetch", "repo": repo, "want": want, "have": list(have), **asdict(use)}
        found = Fetched(**self._ask(request, into=pack))
        if pack.stat().st_size != found.size:
            raise _failed("the pack ended early")
        return found

    def publish(
        self,
        repo: str,
        bundle: Path,
        *,
        commit: str,
        branch_ref: str,
        marker_ref: str,
        use: Use = NOBODY,
    ) -> PublishResult:
        request = {
            "op": "publish",
            "repo": repo,
            "commit": commit,
            "branch_ref": branch_ref,
            "marker_ref": marker_ref,
            **asdict(use),
        }
        return outcomes.from_wire(self._ask(request, send=bundle))

    def pull_request(self, repo: str, wanted: dict[str, Any]) -> outcomes.PullRequest:
        """`wanted`: head, target (empty: the default branch), title, body, draft."""
        request = {"op": "pull_request", "repo": repo, "wanted": wanted}
        return outcomes.PullRequest(**self._ask(request))

    def _ask(
        self, request: dict[str, Any], *, send: Path | None = None, into: Path | None = None
    ) -> dict[str, Any]:
        try:
            with self._connect() as connection:
                connection.settimeout(self.policy.timeout_s + _GRACE_S)
                _send(connection, request, send)
                with connection.makefile("rb") as replies:
                    return _receive(replies, into)
        except (OSError, ValueError) as e:
            raise _failed(str(e)) from e


def _send(connection: socket.socket, request: dict[str, Any], file: Path | None) -> None:
    try:
        connection.sendall(json.dumps(request).encode() + b"\n")
        if file is not None:
            with file.open("rb") as f:
                connection.sendfile(f)
        connection.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has ended: the reply, if there is one, says why


def _receive(replies: Any, into: Path | None) -> dict[str, Any]:
    reply = json.loads(replies.readline(limits.REQUEST_BYTES_MAX) or b"null")
    if not isinstance(reply, dict):
        raise _failed("it ended without an answer")
    if "error" in reply:
        raise from_wire(reply["error"])
    if into is not None:
        with into.open("wb") as f:
            total = 0
            while chunk := replies.read(_CHUNK_BYTES):
                total += len(chunk)
                if total > limits.PACK_BYTES_MAX:
                    raise _failed("the pack is larger than was announced")
                f.write(chunk)
    result: dict[str, Any] = reply["ok"]
    return result


@contextmanager
def _process(policy: Policy) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            helper = subprocess.Popen(
                [sys.executable, "-I", "-m", "wfhub_agent_runner.gitwork.access"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        try:
            ours.sendall(policy.to_json().encode() + b"\n")
            yield ours
        finally:
            helper.kill()  # it has answered, or never will
            helper.wait()


@contextmanager
def _brokered(broker: socket.socket) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            socket.send_fds(broker, [b"1"], [theirs.fileno()])
        yield ours


def _failed(why: str) -> RetryLater:
    return RetryLater("repo-access-failed", f"the access helper gave no whole answer: {why}")
