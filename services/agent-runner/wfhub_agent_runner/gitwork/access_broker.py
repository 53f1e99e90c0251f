"""The broker: a small root process that starts access helpers as the owners of repositories.

The runner starts it while it is still root (`start`), then drops its uid; afterwards all it can do
is to send the broker one end of a socket over the inherited one. The broker forks; the child reads
the request, finds the repository, becomes its owner for good and answers (access.answer). For a
remote it reads the credential, and becomes the runner's own uid before it speaks to anybody.
A repository that root owns is opened as root only where no one else could have put it there.
On a share root may be nobody (NFS's root_squash): what is closed to it is looked into as the owner
of the closed folder, who must then be the repository's too.
The broker ends when the runner's end closes. The policy is the broker's, not the request's.
"""

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from wfhub_common import privileges
from wfhub_common.errors import Rejected, WfhubError

from wfhub_agent_runner.gitwork import access
from wfhub_agent_runner.gitwork.folders import Directory
from wfhub_agent_runner.gitwork.location import Layout, Policy

CHILDREN_MAX = 16
_NOBODY = 65534
_WRITTEN = ("objects", "objects/pack", "refs", "refs/heads", "refs/heads/wfhub", "refs/wfhub")
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
_started: list[subprocess.Popen[bytes]] = []


def start(policy: Policy) -> socket.socket:
    """Start the broker; the socket is what RepoAccess.over_socket takes. Call as root."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        module = "wfhub_agent_runner.gitwork.access_broker"
        broker = subprocess.Popen(
            [sys.executable, "-I", "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,  # a terminal's Ctrl-C reaches the runner, which closes us
        )
    assert broker.stdin is not None
    with broker.stdin as policy_in:  # not on its command line: it may hold credentials
        policy_in.write(policy.to_json().encode())
    _started.append(broker)  # it ends by itself; nothing waits for it
    return ours


def main() -> None:
    policy = Policy.from_json(sys.stdin.read())
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        requests.set_inheritable(False)
        serve(requests, policy)


def serve(requests: socket.socket, policy: Policy) -> None:
    children: set[int] = set()
    while True:
        message, fds, _, _ = socket.recv_fds(requests, 16, 4)
        if not message and not fds:
            return
        while len(children) >= CHILDREN_MAX:
            children.discard(os.wait()[0])
        for fd in fds:
            if pid := os.fork():
                children.add(pid)
            else:
                requests.close()
                _child(fd, policy)
            os.close(fd)
        while children and (ended := os.waitpid(-1, os.WNOHANG)[0]):
            children.discard(ended)


def _child(fd: int, policy: Policy) -> None:
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        access.confine(policy.timeout_s)
        with os.fdopen(os.dup(fd), "rb") as reader, os.fdopen(fd, "wb") as writer:
            request = access.read_request(reader)
            try:
                at = _target(request, policy)
                if isinstance(at, Layout | Directory):
                    become(owner(at))
                else:
                    _become_nobody(policy)
            except (WfhubError, OSError) as e:
                access.refuse(access.translated(e), reader, writer)
            else:
                access.answer(request, at, reader, writer)
        code = 0
    finally:
        os._exit(code)


def _target(request: access.Request, policy: Policy) -> access.Target:
    try:
        return access.target(request, policy)
    except (Rejected, PermissionError) as e:
        refused = e if isinstance(e, PermissionError) else e.__cause__
        if not isinstance(refused, PermissionError) or os.geteuid() != 0:
            raise
        uid = _owner_of_what_is_closed(Path(os.fsdecode(refused.filename or "/")))
        if uid == 0:
            raise
    become(uid)
    return access.target(request, policy)


def _owner_of_what_is_closed(path: Path) -> int:
    """Of the innermost folder on the way that can be seen."""
    for folder in path.parents:
        with suppress(PermissionError):
            return folder.stat().st_uid
    return 0


def _become_nobody(policy: Policy) -> None:
    """For a remote: no file of anybody's, but the code that is still to be imported."""
    if policy.remote_uid is None:
        raise Rejected("repo-forbidden", "the broker has no uid for remotes; set RUNNER_UID")
    privileges.drop(policy.remote_uid, keep_visible=privileges.code_paths())
    os.chdir("/")


def owner(layout: Layout | Directory) -> int:
    """The uid that may act on this repository. Raises: Rejected (`repo-forbidden`)."""
    if isinstance(layout, Directory):
        uid = layout.path.stat().st_uid
        if uid == 0:
            _check_roots_own(layout.path)
        return uid
    uid = layout.common.stat().st_uid
    if uid == 0:
        for path in (layout.gitdir, *(layout.common / part for part in _WRITTEN)):
            if path.exists():
                _check_roots_own(path.resolve())
    return uid


def _check_roots_own(path: Path) -> None:
    """Root's alone, all the way up: else another user could swap what root is about to write."""
    for folder in (path, *path.parents):
        found = folder.stat()
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
        if found.st_uid != 0 or shared:
            raise Rejected(
                "repo-forbidden",
                f"root owns this repository but others may write {folder}; give the repository"
                " to the user who works in it (chown -R)",
            )


def become(uid: int) -> None:
    """Drop to `uid`, for good, with the user's own group and no other."""
    if uid != os.geteuid():
        if os.geteuid() != 0:
            raise Rejected(
                "repo-forbidden",
                f"the repository is uid {uid}'s, in a folder that is closed to all but uid"
                f" {os.geteuid()}; give both to one user (chown -R)",
            )
        try:
            gid = pwd.getpwuid(uid).pw_gid
        except KeyError:
            gid = _NOBODY
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    os.chdir("/")


if __name__ == "__main__":
    main()
