"""The access helper: a short-lived process that alone touches users' repositories.

`python -I -m wfhub_agent_runner.gitwork.access` answers one request and ends.
In:  one line of JSON with the policy (from the broker it is inherited), one with the request
     {op, repo, …}, then a bundle up to the end of the stream.
Out: one line of JSON {"ok": {…}} or {"error": {…}} (errors.to_wire), then, after a fetch, a pack
     up to the end of the stream.
It has limits of memory, processor time and wall time, an empty HOME and none of the runner's
environment. It is the same whether started by the runner or forked by the broker.
"""

import json
import os
import resource
import signal
import tempfile
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from dulwich.objects import ObjectID
from wfhub_common.errors import Rejected, RetryLater, WfhubError, to_wire

from wfhub_agent_runner.gitwork import (
    application,
    directory,
    folders,
    limits,
    outcomes,
    packs,
    publish,
    source,
    walk,
)
from wfhub_agent_runner.gitwork.folders import Directory
from wfhub_agent_runner.gitwork.location import Layout, Policy, folder_name, locate
from wfhub_agent_runner.gitwork.outcomes import Already, Published
from wfhub_agent_runner.gitwork.remote import operations, push, url

Request = dict[str, Any]
Target = Layout | Directory | operations.Target


def main() -> None:
    with os.fdopen(0, "rb") as reader, os.fdopen(1, "wb") as writer:
        policy = Policy.from_json(reader.readline(limits.POLICY_BYTES_MAX).decode())
        confine(policy.timeout_s)
        request = read_request(reader)
        try:
            at = target(request, policy)
        except (WfhubError, OSError) as e:
            refuse(translated(e), reader, writer)
        else:
            answer(request, at, reader, writer)


def confine(timeout_s: float) -> None:
    """Limits of this process, for good. SIGALRM ends it when time is up."""
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (limits.ACCESS_MEMORY_BYTES_MAX,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.PACK_BYTES_MAX * 2,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(timeout_s) + 1,) * 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)


def read_request(reader: BinaryIO) -> Request:
    line = reader.readline(limits.REQUEST_BYTES_MAX)
    try:
        request = json.loads(line)
    except ValueError:
        request = None
    return request if isinstance(request, dict) else {}


def target(request: Request, policy: Policy) -> Target:
    """Where the repository is, with what opens it: read before this process is nobody."""
    repo = str(request.get("repo", ""))
    if folder := folder_name(repo):
        return folders.located(
            folder,
            policy,
            project=str(request.get("project", "")),
            writes=bool(request.get("apply")) or request.get("op") == "publish",
        )
    if remote := url.parse(repo):
        return operations.target(remote, policy)
    return locate(repo, policy)


def answer(request: Request, at: Target, reader: BinaryIO, writer: BinaryIO) -> None:
    try:
        operation = _OPERATIONS.get(str(request.get("op")))
        if operation is None:
            raise Rejected("access-unknown", f"no such operation: {request.get('op')!r}")
        operation(request, at, reader, writer)
    except (WfhubError, OSError, RecursionError, MemoryError, *packs.DAMAGED) as e:
        refuse(translated(e), reader, writer)
    except Exception as e:  # noqa: BLE001 - whatever a repository or host brought up is answered
        traceback.print_exc()
        error = RetryLater("repo-access-failed", f"the access helper met {e!r}; see its log")
        refuse(error, reader, writer)
    writer.flush()


def refuse(error: WfhubError, reader: BinaryIO, writer: BinaryIO) -> None:
    while reader.read(1024 * 1024):  # a sender that is still writing must get the reply
        pass
    _reply(writer, {"error": to_wire(error)})


def translated(e: BaseException) -> WfhubError:
    match e:
        case WfhubError():
            return e
        case PermissionError():
            return Rejected(
                "repo-forbidden",
                f"this repository may not be used: {e.filename} may not be read; make it readable",
            )
        case OSError():
            return RetryLater("repo-unavailable", f"the repository cannot be reached: {e}")
        case MemoryError():
            return RetryLater("repo-too-large", "the access helper ran out of memory")
        case RecursionError():
            return Rejected("repo-corrupt", "the repository's alternates or deltas form a circle")
    return Rejected("repo-corrupt", f"the repository holds damaged data ({e}); run git fsck in it")


def _reply(writer: BinaryIO, value: dict[str, Any]) -> None:
    writer.write(json.dumps(value).encode() + b"\n")


def _resolve(request: Request, at: Target, _: BinaryIO, writer: BinaryIO) -> None:
    if isinstance(at, Layout):
        with source.opened(at) as opened:
            found = source.resolve(opened, request.get("ref"))
    elif isinstance(at, Directory):
        found = directory.resolve(at)
    else:
        found = operations.resolve(at, request.get("ref"))
    _reply(writer, {"ok": vars(found)})


def _fetch(request: Request, at: Target, _: BinaryIO, writer: BinaryIO) -> None:
    # Spooled first: an object found missing half-way must still become an error reply.
    with _spool() as spool:
        if isinstance(at, Layout):
            fetched = _packed(request, at, spool)
        elif isinstance(at, Directory):
            fetched = directory.fetch(at, request["want"], spool)
        else:
            fetched = operations.fetch(at, request["want"], request["have"], spool)
        _reply(writer, {"ok": vars(fetched)})
        spool.seek(0)
        while chunk := spool.read(1024 * 1024):
            writer.write(chunk)


def _packed(request: Request, at: Layout, spool: BinaryIO) -> outcomes.Fetched:
    """One commit without its history: the commit, its tree and all below it, less what the first
    known commit of `have` has. The mirror is shallow, so the cost is that of what is new."""
    want = ObjectID(request["want"].encode())
    with source.opened(at) as opened:
        store = opened.store
        commit = walk.commit(store, want)
        known: set[ObjectID] = set()
        for have in request["have"][: limits.HAVES_MAX]:
            if (oid := ObjectID(have.encode())) in store:
                list(walk.closure(store, walk.commit(store, oid).tree, known))
                break
        oids = [want, *walk.closure(store, commit.tree, known)]
        packs.write(spool, store, oids)
        size = spool.tell()
        if size > limits.PACK_BYTES_MAX:
            raise Rejected("repo-too-large", f"one commit packs to {size} bytes; too much")
        return outcomes.Fetched(len(oids), size)


def _publish(request: Request, at: Target, reader: BinaryIO, writer: BinaryIO) -> None:
    order = publish.Order.parse(request["commit"], request["branch_ref"], request["marker_ref"])
    apply = bool(request.get("apply"))
    if isinstance(at, Layout):
        with source.opened(at) as opened:
            result = publish.publish(opened, order, reader)
            if apply and isinstance(result, Published | Already):
                result = application.to_work_tree(opened, order, result)
    elif isinstance(at, Directory):
        result = application.to_directory(at, order, reader, apply=apply)
    else:
        result = push.publish(at, order, reader)
    while reader.read(1024 * 1024):
        pass
    _reply(writer, {"ok": outcomes.to_wire(result)})


def _pull_request(request: Request, at: Target, reader: BinaryIO, writer: BinaryIO) -> None:
    if isinstance(at, Layout | Directory):
        raise Rejected("forge-unknown", "a repository on a disk has no pull requests")
    _reply(writer, {"ok": vars(operations.pull_request(at, request["wanted"]))})


def _spool() -> Any:
    return tempfile.TemporaryFile()


_OPERATIONS: dict[str, Callable[[Request, Target, BinaryIO, BinaryIO], None]] = {
    "resolve": _resolve,
    "fetch": _fetch,
    "publish": _publish,
    "pull_request": _pull_request,
}

if __name__ == "__main__":
    main()
