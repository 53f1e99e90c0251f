"""A live provider: any HTTP server that speaks one of our formats, or several (dialects.py).

The client's bytes go on as they are, but for two things, and only where needed: `model` when it is
missing or "default" and LLM_MODEL is set, and what the format needs to report its usage.

upstream                       | answered
2xx, 4xx other than below, 503 | passed on as it is
401, 403, 407                  | 502 upstream-auth (its text is withheld: it may quote the key)
other 5xx, 3xx                 | 502 upstream-error
no connection                  | 502 upstream-unreachable
no header in time              | 504 upstream-timeout
silence within an answer       | 504 upstream-idle

A client that leaves closes the connection upstream. Servers stop a stream then; some (llama.cpp)
finish an answer that is not streamed, for nobody, whatever we do.
aiohttp asks here, and httpx everywhere else: it takes a fifth of the CPU of a stream (ADR 38).
"""

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import aiohttp
import httpx
from yarl import URL

from wfhub_llm_gateway import sse, urls
from wfhub_llm_gateway.dialects import Dialect
from wfhub_llm_gateway.formats import BY_NAME
from wfhub_llm_gateway.formats.asked import Asked, UpstreamFailed
from wfhub_llm_gateway.provider import Answer

CONNECT_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 1000
KEPT_ALIVE_S = 5.0  # less than servers keep one: a request on a connection that they close is lost
INLINE_BYTES_MAX = 512 * 1024  # of a body that is written in one piece
HEADER_BYTES_MAX = 64 * 1024  # one line of an answer's
ERROR_EXCERPT_BYTES_MAX = 2000
MODELS_BYTES_MAX = 4 * 1024 * 1024
_AUTH = (401, 403, 407)
_PASSED_HEADERS = ("content-type", "retry-after")


@dataclass(frozen=True)
class SettingNames:
    """By what an operator sets this server's address, key and times: errors say which to check."""

    url: str
    key: str
    first_byte: str = "UPSTREAM_FIRST_BYTE_S"
    idle: str = "UPSTREAM_IDLE_S"


class HttpProvider:
    replayed = False
    note = ""

    def __init__(
        self,
        name: str,
        base_url: str,
        api_key: str,
        dialect: Dialect,
        *,
        names: SettingNames,
        first_byte_s: float,
        idle_s: float,
    ) -> None:
        """`base_url` as urls.base gives it. `first_byte_s`: wait for an answer's header;
        `idle_s`: silence allowed within its body."""
        self.name = name
        self.speaks = dialect.speaks
        self._dialect, self._names = dialect, names
        self._base_url = base_url
        self._first_byte_s = first_byte_s
        self._idle_s = idle_s
        headers = {"accept-encoding": "identity", "user-agent": "wfhub-llm-gateway"}
        self._headers = headers | dialect.headers(api_key)
        self._opened: aiohttp.ClientSession | None = None
        self._tls = _tls()

    @property
    def _session(self) -> aiohttp.ClientSession:
        """Made within the loop that uses it."""
        if self._opened is None:
            self._opened = aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS_MAX,
                    keepalive_timeout=KEPT_ALIVE_S,
                    ssl=self._tls,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),  # nothing of one attempt reaches another
                # Reading is timed here, not by aiohttp: header and body have different limits.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                max_line_size=HEADER_BYTES_MAX,
                max_field_size=HEADER_BYTES_MAX,
                trust_env=False,  # no proxy from the environment gets to see prompts and key
            )
        return self._opened

    @asynccontextmanager
    async def ask(self, asked: Asked, *, attempt_id: str) -> AsyncIterator[Answer]:
        spoken = BY_NAME[asked.format]
        headers = {"content-type": "application/json", **asked.headers}
        body = spoken.outgoing(asked)
        response = await self._send("POST", spoken.target(asked), body, headers)
        try:
            if not _passed_on(response.status):
                raise await self._refused(response)
            kind = response.headers.get("content-type", "application/json")
            yield Answer(
                status=response.status,
                stream=kind.startswith(sse.CONTENT_TYPE),
                chunks=self._chunks(response),
                headers={h: response.headers[h] for h in _PASSED_HEADERS if h in response.headers},
            )
        finally:
            response.close()  # one that was read to its end has gone back to the pool already

    async def models(self) -> list[dict[str, Any]]:
        response = await self._send("GET", "/models")
        try:
            if response.status != 200:
                raise await self._refused(response)
            body = b""
            async for chunk in self._chunks(response):
                body += chunk
                if len(body) > MODELS_BYTES_MAX:
                    raise self._malformed(f"its list of models is over {MODELS_BYTES_MAX} bytes")
        finally:
            response.close()
        try:
            return self._dialect.models(json.loads(body))
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise self._malformed("GET /models did not answer with a list of models") from e

    def candidates(self, model: str) -> list[tuple[str, str]]:
        return [(self.name, model)]

    def forget(self, attempt_id: str) -> None:
        pass

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    @property
    def _where(self) -> str:
        return urls.shown(self._base_url)

    async def _send(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> aiohttp.ClientResponse:
        url = URL(self._base_url + target, encoded=True)  # as it stands: it was checked by us
        data = io.BytesIO(body) if len(body) > INLINE_BYTES_MAX else body
        try:
            async with asyncio.timeout(self._first_byte_s):
                return await self._session.request(
                    method, url, data=data or None, headers=headers, allow_redirects=False
                )
        except aiohttp.ConnectionTimeoutError as e:
            raise self._unreachable(f"no connection within {CONNECT_TIMEOUT_S:g} s", 504) from e
        except aiohttp.ClientConnectorError as e:
            raise self._unreachable(str(e) or type(e).__name__, 502) from e
        except TimeoutError as e:
            raise UpstreamFailed(
                "upstream-timeout",
                f"the model server at {self._where} did not begin to answer within "
                f"{self._first_byte_s:g} s; see whether it is overloaded or still loading a model "
                f"({self._names.first_byte} sets the limit)",
                status=504,
            ) from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise self._broken(e) from e

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        try:
            while True:
                async with asyncio.timeout(self._idle_s):
                    chunk = await response.content.readany()
                if not chunk:
                    return
                yield chunk
        except TimeoutError as e:
            raise UpstreamFailed(
                "upstream-idle",
                f"the model server at {self._where} went silent for {self._idle_s:g} s in the "
                f"middle of its answer ({self._names.idle} sets the limit)",
                status=504,
            ) from e
        except (aiohttp.ClientError, OSError) as e:
            raise self._broken(e) from e

    def _unreachable(self, why: str, status: int) -> UpstreamFailed:
        return UpstreamFailed(
            "upstream-unreachable",
            f"the model server at {self._where} cannot be reached ({why}); check that it runs and "
            f"that {self._names.url} of the gateway is right as seen from where the gateway runs",
            status=status,
        )

    def _broken(self, error: Exception) -> UpstreamFailed:
        return UpstreamFailed(
            "upstream-disconnected",
            f"the model server at {self._where} broke off its answer "
            f"({str(error) or type(error).__name__}); its own log should say why",
        )

    def _malformed(self, what: str) -> UpstreamFailed:
        return UpstreamFailed("upstream-malformed", f"the model server at {self._where}: {what}")

    async def _refused(self, response: aiohttp.ClientResponse) -> UpstreamFailed:
        status = response.status
        if status in _AUTH:
            return UpstreamFailed(
                "upstream-auth",
                f"the model server at {self._where} refused the gateway's credential (HTTP "
                f"{status}); check {self._names.key} of the gateway",
                upstream_status=status,
            )
        excerpt = b""
        async for chunk in self._chunks(response):
            excerpt += chunk
            if len(excerpt) > ERROR_EXCERPT_BYTES_MAX:
                break
        text = excerpt[:ERROR_EXCERPT_BYTES_MAX].decode(errors="replace")
        return UpstreamFailed(
            "upstream-error",
            f"the model server at {self._where} answered HTTP {status}: {text}",
            upstream_status=status,
        )


@cache
def _tls() -> ssl.SSLContext:
    """The same roots everywhere. Reading them is some 20 ms of CPU: once, at the start, not in the
    time that a provider's first request has, while streams wait."""
    return httpx.create_ssl_context(trust_env=False)


def _passed_on(status: int) -> bool:
    if status in _AUTH:
        return False
    return 200 <= status < 300 or 400 <= status < 500 or status == 503
