"""The access helper: a short-lived process that alone touches users' repositories.

`python -I -m wfhub_agent_runner.gitwork.access <policy JSON>` answers one request and ends.
In:  one line of JSON {op, repo, …, size}, then `size` bytes (a bundle).
Out: one line of JSON {"ok": {…}} or {"error": {…}} (errors.to_wire), then, after a fetch, a pack
     up to the end of the stream.
It has limits of memory, processor time and wall time, an empty HOME and none of the runner's
environment. It is the same whether started by the runner or forked by the broker.
"""

import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO

from dulwich.objects import ObjectID
from wfhub_common.errors import Rejected, RetryLater, WfhubError, to_wire

from wfhub_agent_runner.gitwork import limits, outcomes, packs, publish, source, walk
from wfhub_agent_runner.gitwork.location import Policy, locate

Request = dict[str, Any]


def main() -> None:
    policy = Policy.from_json(sys.argv[1])
    confine(policy.timeout_s)
    with os.fdopen(0, "rb") as reader, os.fdopen(1, "wb") as writer:
        answer(read_request(reader), reader, writer, policy)


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


def answer(request: Request, reader: BinaryIO, writer: BinaryIO, policy: Policy) -> None:
    try:
        operation = _OPERATIONS.get(str(request.get("op")))
        if operation is None:
            raise Rejected("access-unknown", f"no such operation: {request.get('op')!r}")
        operation(request, reader, writer, policy)
    except (WfhubError, OSError, RecursionError, MemoryError, *packs.DAMAGED) as e:
        refuse(_translated(e), reader, writer)
    writer.flush()


def refuse(error: WfhubError, reader: BinaryIO, writer: BinaryIO) -> None:
    while reader.read(1024 * 1024):  # a sender that is still writing must get the reply
        pass
    _reply(writer, {"error": to_wire(error)})


def _translated(e: BaseException) -> WfhubError:
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


def _resolve(request: Request, _: BinaryIO, writer: BinaryIO, policy: Policy) -> None:
    with source.opened(locate(request["repo"], policy)) as opened:
        found = source.resolve(opened, request.get("ref"))
    _reply(writer, {"ok": vars(found)})


def _fetch(request: Request, _: BinaryIO, writer: BinaryIO, policy: Policy) -> None:
    """One commit without its history: the commit, its tree and all below it, less what the first
    known commit of `have` has. The mirror is shallow, so the cost is that of what is new."""
    want = ObjectID(request["want"].encode())
    with source.opened(locate(request["repo"], policy)) as opened, _spool() as spool:
        store = opened.store
        commit = walk.commit(store, want)
        known: set[ObjectID] = set()
        for have in request["have"][: limits.HAVES_MAX]:
            if (oid := ObjectID(have.encode())) in store:
                list(walk.closure(store, walk.commit(store, oid).tree, known))
                break
        oids = [want, *walk.closure(store, commit.tree, known)]
        packs.write(spool, store, oids)
        # Spooled first: an object found missing half-way must still become an error reply.
        size = spool.tell()
        if size > limits.PACK_BYTES_MAX:
            raise Rejected("repo-too-large", f"one commit packs to {size} bytes; too much")
        _reply(writer, {"ok": vars(outcomes.Fetched(len(oids), size))})
        spool.seek(0)
        while chunk := spool.read(1024 * 1024):
            writer.write(chunk)


def _publish(request: Request, reader: BinaryIO, writer: BinaryIO, policy: Policy) -> None:
    order = publish.Order.parse(request["commit"], request["branch_ref"], request["marker_ref"])
    with source.opened(locate(request["repo"], policy)) as opened:
        result = publish.publish(opened, order, reader)
    while reader.read(1024 * 1024):
        pass
    _reply(writer, {"ok": outcomes.to_wire(result)})


def _spool() -> Any:
    return tempfile.TemporaryFile()


_OPERATIONS: dict[str, Callable[[Request, BinaryIO, BinaryIO, Policy], None]] = {
    "resolve": _resolve,
    "fetch": _fetch,
    "publish": _publish,
}

if __name__ == "__main__":
    main()
