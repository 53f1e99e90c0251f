"""Where an agent may connect to besides the gateway: exact `host:port` entries.

Shape: a host is a DNS name or an IPv4 address, in lower case, without a wildcard; what is matched
is the whole entry. A name whose last label is a number would be an address to some resolvers
(`127.1`, `0x7f.1`), so it must be a canonical IPv4 address. No IPv6 addresses: name a host.
Raises: ValueError that says how an entry is written.
"""

import ipaddress
import re
from typing import NamedTuple

HOST_CHARS_MAX = 253  # RFC 1035, without the last dot
ENTRY_CHARS_MAX = HOST_CHARS_MAX + len(":65535")
PORT_MAX = 65_535
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z")
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")


class Endpoint(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def endpoint(text: str) -> Endpoint:
    name, colon, port = text.rpartition(":")
    if not colon or not _PORT.match(port) or int(port) > PORT_MAX:
        raise ValueError(f"{text[:100]!r} is not host:port; write for example registry.example:443")
    return Endpoint(host(name), int(port))


def host(text: str) -> str:
    # Before lower(): the sign for Kelvin would become a k.
    lowered = text.lower() if text.isascii() else ""
    if not _HOST.match(lowered) or len(lowered) > HOST_CHARS_MAX:
        raise ValueError(
            f"{text[:100]!r} is not a host's name: write one exact DNS name in ASCII (no wildcard,"
            " no last dot) or an IPv4 address"
        )
    if _NUMBER.match(lowered.rpartition(".")[2]):
        try:
            ipaddress.IPv4Address(lowered)
        except ValueError as e:
            raise ValueError(
                f"{text[:100]!r} ends in a number but is no IPv4 address; write all four parts in"
                " decimal"
            ) from e
    return lowered


def canonical(text: str) -> str:
    """The entry as it is stored and compared."""
    return str(endpoint(text))


def listed(text: str) -> tuple[str, ...]:
    """The parts of a ','-separated setting."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
