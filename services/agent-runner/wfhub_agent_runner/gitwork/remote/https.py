"""dulwich's https client on connections of our own: to checked addresses, without redirects.

The name is resolved and checked once (hosts); TLS is verified against the name all the same. A
redirect is refused, since it would lead past the check; only the smart protocol is spoken.
Raises: Rejected (`repo-unauthorized`, `repo-not-found`, `repo-moved`, `repo-not-a-repository`),
RetryLater (`repo-unreachable`); what dulwich raises besides is translated by `operations`.
"""

import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import urllib3
from dulwich.client import Urllib3HttpGitClient
from dulwich.protocol import CAPABILITY_PACKFILE_URIS
from urllib3.connection import HTTPSConnection
from wfhub_common.errors import Rejected, RetryLater

from wfhub_agent_runner.gitwork.remote import hosts
from wfhub_agent_runner.gitwork.remote.url import Remote

USER_AGENT = "git/2.0 (workflow-hub)"  # some hosts serve git to what begins with git/ alone


def client(
    remote: Remote, addresses: Sequence[tuple[str, int]], username: str, password: str, ca: str
) -> Urllib3HttpGitClient:
    made = Urllib3HttpGitClient(
        f"https://{remote.authority}/",
        pool_manager=_Requests(remote, addresses, ca),  # type: ignore[arg-type]
        username=username or None,
        password=password or None,
        timeout=hosts.SILENCE_S_MAX,
    )
    made._fetch_capabilities.discard(CAPABILITY_PACKFILE_URIS)  # they lead to other hosts
    return made


class _Requests:
    """As much of urllib3's pool manager as dulwich uses, for one host."""

    def __init__(self, remote: Remote, addresses: Sequence[tuple[str, int]], ca: str) -> None:
        class Pinned(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return hosts.connect(addresses)

        trusted = ssl.create_default_context(cadata=ca or None)
        trusted.minimum_version = ssl.TLSVersion.TLSv1_2
        self.headers: Mapping[str, str] = {"User-agent": USER_AGENT}
        self._remote = remote
        self._pool = urllib3.HTTPSConnectionPool(
            remote.host, remote.port, ssl_context=trusted, maxsize=1, retries=False
        )
        self._pool.ConnectionCls = Pinned

    def request(self, method: str, url: str, **fields: Any) -> urllib3.BaseHTTPResponse:
        parts = urllib3.util.parse_url(url)
        if (parts.host or "").strip("[]") != self._remote.host:
            raise _moved(self._remote, url)
        fields.pop("timeout", None)
        timeout = urllib3.Timeout(connect=hosts.CONNECT_S_MAX, read=hosts.SILENCE_S_MAX)
        try:
            answer = self._pool.urlopen(
                method, parts.request_uri, redirect=False, timeout=timeout, **fields
            )
        except (urllib3.exceptions.SSLError, ssl.SSLError) as e:
            raise Rejected(
                "repo-tls",
                f"{self._remote.authority} does not prove who it is ({e}); name its authority in"
                " GIT_CA_FILE if it is a private one",
            ) from e
        except (urllib3.exceptions.HTTPError, OSError) as e:
            raise RetryLater(
                "repo-unreachable", f"{self._remote.authority} does not answer: {e}"
            ) from e
        self._check(answer)
        return answer

    def _check(self, answer: urllib3.BaseHTTPResponse) -> None:
        host, status = self._remote.authority, answer.status
        kind = answer.headers.get("Content-Type", "")
        if status == 200 and kind.startswith("application/x-git-"):
            return
        if 300 <= status < 400:
            raise _moved(self._remote, answer.headers.get("Location", "elsewhere"))
        if status in (401, 403):
            raise Rejected(
                "repo-unauthorized",
                f"{host} refuses (HTTP {status}): the runner needs a credential that may read and"
                " push there (GIT_CREDENTIALS_FILE)",
                host=host,
            )
        if status in (404, 410):
            raise Rejected(
                "repo-not-found",
                f"{self._remote} is not there, or the runner's credential may not see it",
                host=host,
            )
        if status == 200:
            raise Rejected(
                "repo-not-a-repository",
                f"{self._remote} is no git repository (it answers with {kind[:100] or 'nothing'})",
            )
        raise RetryLater("repo-unreachable", f"{host} answers with HTTP {status}")


def _moved(remote: Remote, to: str) -> Rejected:
    shown = to.partition("?")[0].removesuffix("/info/refs")[:300]
    return Rejected(
        "repo-moved", f"{remote} redirects to {shown}; redirects are not followed: use that URL"
    )
