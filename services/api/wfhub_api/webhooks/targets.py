"""Targets: the URLs that events may be sent to, and the addresses behind them.

https, or http for hosts that WEBHOOK_HTTP_HOSTS names. A host is a DNS name or an IPv4 address.
Its addresses are looked up once a run, all of them are checked, and one of those is connected to:
public ones, private ones for WEBHOOK_PRIVATE_HOSTS, and never a metadata service's.
Raises: Rejected (422 `url-forbidden`), Forbidden, OSError.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from wfhub_common import addresses, egress
from wfhub_common.errors import Rejected

URL_CHARS_MAX = 2048
RESOLVE_S_MAX = 5.0
ADDRESSES_MAX = 4  # tried of a name
_URL = re.compile(r"https?://[\x21-\x7e]+\Z")
_PORTS = {"https": 443, "http": 80}


class Forbidden(Exception):
    """The name leads to an address that nothing is sent to."""


@dataclass(frozen=True)
class Rules:
    private_hosts: frozenset[str] = frozenset()
    http_hosts: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Target:
    url: str
    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """For the Host header."""
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def is_address(self) -> bool:
        try:
            ipaddress.IPv4Address(self.host)
        except ValueError:
            return False
        return True


def parse(url: str, rules: Rules) -> Target:
    if len(url) > URL_CHARS_MAX or not _URL.match(url) or "\\" in url:
        raise _refused(f"write it as https://host/path, in ASCII, {URL_CHARS_MAX} characters")
    try:
        parts = urlsplit(url)
        host, port = egress.host(parts.hostname or ""), parts.port or _PORTS[parts.scheme]
        agreed = httpx.URL(url).host == host  # what is sent is built from httpx's reading
    except (ValueError, httpx.InvalidURL) as e:
        raise _refused(str(e)) from e
    if parts.username is not None or parts.password is not None or parts.fragment or not agreed:
        raise _refused("no user, password or fragment: the signature says that it is from us")
    if parts.scheme == "http" and host not in rules.http_hosts:
        raise _refused(f"https only; WEBHOOK_HTTP_HOSTS does not name {host}")
    target = Target(url, parts.scheme, host, port)
    if target.is_address and (why := _why_not(target, host, rules)):
        raise _refused(why)
    return target


async def resolve(target: Target, rules: Rules, threads: Executor) -> Sequence[str]:
    """Checked addresses. In threads of its own: a slow name server holds up nobody else."""

    def look_up() -> list[str]:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(at[4][0]) for at in found))

    async with asyncio.timeout(RESOLVE_S_MAX):
        found = await asyncio.get_running_loop().run_in_executor(threads, look_up)
    for address in found:  # all of them: a name leads to each whenever it likes
        if why := _why_not(target, address, rules):
            raise Forbidden(why)
    return found[:ADDRESSES_MAX]


def _why_not(target: Target, address: str, rules: Rules) -> str | None:
    why = addresses.refused(address, private_allowed=target.host in rules.private_hosts)
    return why and f"{target.host} leads where nothing is sent: {why} (WEBHOOK_PRIVATE_HOSTS)"


def _refused(why: str) -> Rejected:
    return Rejected("url-forbidden", f"url: {why}")
