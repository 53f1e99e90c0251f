"""An HTTP transport for the APIs of forges: to checked addresses, whatever a name becomes.

Each request's name is resolved once, every address behind it must be allowed, and one of those is
connected to. TLS and the Host header stay the name's. httpx follows no redirect by itself.
Raises: Rejected (`repo-forbidden`), and httpx.ConnectError when no address answers.
"""

import ipaddress
import socket
import ssl

import httpx
from wfhub_common import addresses
from wfhub_common.errors import Rejected

_PORTS = {"https": 443, "http": 80}


class Pinned(httpx.BaseTransport):
    """`private_allowed`: the operator has named the host."""

    def __init__(self, *, private_allowed: bool, ca: str = "") -> None:
        self._private_allowed = private_allowed
        trusted = ssl.create_default_context(cadata=ca or None)
        # No connection is kept: the next name at the same address would be taken for this one.
        once = httpx.Limits(max_keepalive_connections=0)
        self._inner = httpx.HTTPTransport(verify=trusted, trust_env=False, limits=once)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        failure: httpx.TransportError = httpx.ConnectError("no address", request=request)
        for address in self._checked(request.url):
            try:
                return self._inner.handle_request(_at(request, address))
            except httpx.ConnectError as e:
                failure = e
        raise failure

    def close(self) -> None:
        self._inner.close()

    def _checked(self, url: httpx.URL) -> list[str]:
        port = url.port or _PORTS[url.scheme]
        try:
            found = socket.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        except OSError as e:
            raise httpx.ConnectError(f"the name {url.host} cannot be resolved ({e})") from e
        pairs = list(dict.fromkeys(str(at[4][0]) for at in found))
        for address in pairs:
            if why := addresses.refused(address, private_allowed=self._private_allowed):
                raise Rejected(
                    "repo-forbidden",
                    f"the API at {url.host} ({address}) may not be used: {why}; an api_url in"
                    " GIT_CREDENTIALS_FILE, or GIT_HOSTS, names hosts that may be private",
                    host=url.host,
                )
        return pairs


def _at(request: httpx.Request, address: str) -> httpx.Request:
    extensions = dict(request.extensions)
    if not _is_address(request.url.host):
        extensions["sni_hostname"] = request.url.host  # what the certificate must be for
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions=extensions,
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
