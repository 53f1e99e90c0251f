"""What a connection out of a sandbox must pass, whichever way it was asked for: one check.

The entry is among those allowed; its name is resolved once; every address found may be reached;
the connection is made to an address that was checked, so a name that changes in between leads
nowhere else. Private addresses need the operator's word, metadata services have none.
Raises: Rejected (`egress-forbidden`), EgressRefused.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from wfhub_common import addresses
from wfhub_common.egress import Endpoint, endpoint, listed
from wfhub_common.errors import Rejected

RESOLVE_S_MAX = 10.0
CONNECT_S_MAX = 10.0  # of one address
ADDRESSES_MAX = 8  # tried of one name
_EVERY = "*"

Resolve = Callable[[Endpoint], Awaitable[Sequence[str]]]  # addresses; raises OSError
Connected = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class EgressRefused(Exception):
    """The proxy's own answer. `status` is HTTP's; `reason` is one stable word for the log."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass(frozen=True)
class EgressRule:
    """`projects` has `*` for all of them."""

    entry: Endpoint
    projects: frozenset[str]


@dataclass(frozen=True)
class EgressRules:
    """What the operator allows, by project."""

    rules: tuple[EgressRule, ...] = ()
    private_hosts: frozenset[str] = frozenset()

    def of(self, project: str) -> "EgressPolicy":
        who = {_EVERY, project}
        allowed = frozenset(rule.entry for rule in self.rules if rule.projects & who)
        return EgressPolicy(allowed, self.private_hosts, project)


def parse(text: str) -> tuple[EgressRule, ...]:
    """`host:port,host:port=project,project;host:port`: those without `=` are for all projects.

    Raises: ValueError.
    """
    return tuple(
        rule for part in text.split(";") if part.strip() for rule in _rules_of(part.strip())
    )


def _rules_of(text: str) -> list[EgressRule]:
    entries, equals, projects = text.partition("=")
    wanted = frozenset(listed(projects)) if equals else frozenset({_EVERY})
    found = listed(entries)
    if not wanted or not found:
        raise ValueError(f"{text[:200]!r} is no rule; write host:port=project,project or host:port")
    return [EgressRule(endpoint(entry), wanted) for entry in found]


@dataclass(frozen=True)
class EgressPolicy:
    """What one project's tasks may ask for. `private_hosts` are names (or addresses) that may lead
    to private addresses."""

    allowed: frozenset[Endpoint] = frozenset()
    private_hosts: frozenset[str] = frozenset()
    project: str = ""

    def granted(self, asked: Sequence[str]) -> "EgressPolicy":
        """This policy for a task that asks for these entries, all of which must be allowed."""
        wanted = [endpoint(entry) for entry in asked]
        for entry in wanted:
            if entry not in self.allowed:
                raise Rejected(
                    "egress-forbidden",
                    f"this runner lets no agent of project {self.project!r} connect to {entry}: its"
                    " operator can add it to EGRESS_ALLOWED, or leave it out of the task's"
                    " `egress`",
                    entry=str(entry),
                )
        return replace(self, allowed=frozenset(wanted))

    async def addresses_of(self, target: Endpoint, resolve: Resolve) -> Sequence[str]:
        """Checked addresses in the resolver's order. A name that is not allowed is not looked up:
        a question to a name server is a way out too."""
        if target not in self.allowed:
            message = f"{target} is not among the `egress` entries of this task"
            raise EgressRefused(403, "not-allowed", message)
        try:
            async with asyncio.timeout(RESOLVE_S_MAX):
                found = await resolve(target)
        except (OSError, UnicodeError) as e:  # TimeoutError is an OSError
            message = f"the name {target.host} cannot be resolved"
            raise EgressRefused(502, "unresolved", message) from e
        for address in found:  # all of them: a name leads to each whenever it likes
            if addresses.refused(address, private_allowed=target.host in self.private_hosts):
                message = (
                    f"{target.host} leads to an address that may not be reached from here;"
                    " EGRESS_PRIVATE_HOSTS names hosts that may be private"
                )
                raise EgressRefused(403, "forbidden-address", message)
        return found[:ADDRESSES_MAX]


def system_resolver(threads: Executor) -> Resolve:
    """In threads of its own: slow name servers must not hold up the runner's other work."""

    def look_up(target: Endpoint) -> list[str]:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(at[4][0]) for at in found))

    async def resolve(target: Endpoint) -> Sequence[str]:
        return await asyncio.get_running_loop().run_in_executor(threads, look_up, target)

    return resolve


async def connect(target: Endpoint, found: Sequence[str], *, buffer_bytes: int) -> Connected:
    """To the first of these addresses that answers."""
    for address in found:
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                return await asyncio.open_connection(address, target.port, limit=buffer_bytes)
        except OSError:
            continue
    raise EgressRefused(502, "unreachable", f"{target} does not answer")
