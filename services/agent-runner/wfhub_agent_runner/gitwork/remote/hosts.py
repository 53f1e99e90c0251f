"""Hosts a repository may lie on: the operator's list, and the addresses behind a name.

`hosts` empty: any public host. Else only those named: `host`, `host:port` or `*.domain` (at the
scheme's own port unless one is given), which may then have private addresses. Metadata and
link-local addresses never. A name is resolved once, and what was checked is connected to.
Raises: Rejected (`repo-forbidden`), RetryLater (`repo-unreachable`).
"""

import re
import socket
import time
from collections.abc import Sequence

from wfhub_common import addresses
from wfhub_common.errors import Rejected, RetryLater

from wfhub_agent_runner.gitwork.remote.url import PORTS, Remote

CONNECT_S_MAX = 15.0
SILENCE_S_MAX = 120.0  # between two bytes of the host
# For no answer from the name servers. A cluster that lost a node asks those that were on it for
# about a minute, and that is when tasks of that node begin again.
NAME_S_MAX, NAME_RETRY_S = 60.0, 1.0
_ENTRY = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d{1,5}))?\Z")  # else a bare IPv6 address


def check(remote: Remote, hosts: Sequence[str]) -> None:
    if hosts and not _named(remote, hosts):
        raise Rejected(
            "repo-forbidden",
            f"{remote.authority} is not among the hosts this runner may use; add it to GIT_HOSTS",
            host=remote.authority,
        )


def _named(remote: Remote, hosts: Sequence[str]) -> bool:
    return any(_matches(remote, entry.lower()) for entry in hosts)


def _matches(remote: Remote, entry: str) -> bool:
    found = _ENTRY.match(entry)
    host, port = (found[1].strip("[]"), found[2]) if found else (entry, None)
    if remote.port != (int(port) if port else PORTS[remote.scheme]):
        return False
    if host.startswith("*."):
        return remote.host.endswith(host[1:])
    return remote.host == host


def resolved(remote: Remote, hosts: Sequence[str]) -> list[tuple[str, int]]:
    """Checked (address, port) pairs, as the resolver ordered them. All must be allowed: a name
    that leads to one forbidden address leads there whenever it likes."""
    check(remote, hosts)
    pairs = [(address, remote.port) for address in _addresses(remote)]
    named = bool(hosts) and _named(remote, hosts)
    for address, _ in pairs:
        if why := addresses.refused(address, private_allowed=named):
            raise Rejected(
                "repo-forbidden",
                f"{remote.host} ({address}) may not be used: {why}; GIT_HOSTS names hosts that may"
                " be private",
                host=remote.host,
            )
    return pairs


def _addresses(remote: Remote) -> list[str]:
    deadline = time.monotonic() + NAME_S_MAX
    while True:
        try:
            found = socket.getaddrinfo(remote.host, remote.port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(at[4][0]) for at in found))
        except OSError as e:
            unanswered = isinstance(e, socket.gaierror) and e.errno == socket.EAI_AGAIN
            if not unanswered or time.monotonic() >= deadline:
                raise RetryLater(
                    "repo-unreachable",
                    f"the name {remote.host} cannot be resolved ({e}); check the URL",
                ) from e
        time.sleep(NAME_RETRY_S)


def connect(pairs: Sequence[tuple[str, int]]) -> socket.socket:
    """Raises: OSError, the last one, when none of them answers."""
    failure: OSError = OSError("no address")
    for pair in pairs:
        try:
            connection = socket.create_connection(pair, timeout=CONNECT_S_MAX)
        except OSError as e:
            failure = e
            continue
        connection.settimeout(SILENCE_S_MAX)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    raise failure
