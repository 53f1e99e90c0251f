"""Sending: one event, one request, to a checked address; the answer's head is what counts.

TLS and the Host header are the name's, whatever address is used. No redirect is followed. Of the
body BODY_BYTES_MAX are read, for BODY_S_MAX, so that the connection can be used again; else it is
closed. Units: seconds.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from wfhub_common import standard_webhooks
from wfhub_common.messages import CloudEvent

from wfhub_api.webhooks import retries, targets
from wfhub_api.webhooks.targets import Rules, Target

CONTENT_TYPE = "application/cloudevents+json"
USER_AGENT = "workflow-hub-webhooks/1"
CONNECT_S_MAX = 5.0
BODY_BYTES_MAX = 16 * 1024
BODY_S_MAX = 1.0
WHY_CHARS_MAX = 200


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """The system's authorities, and the operator's own."""
    trusted = ssl.create_default_context()
    if ca_file is not None:
        trusted.load_verify_locations(cafile=str(ca_file))
    return trusted


class Channel:
    """To one receiver, for a run: its name is resolved once, its connection kept meanwhile."""

    def __init__(
        self,
        target: Target,
        rules: Rules,
        *,
        threads: Executor,
        trusted: ssl.SSLContext,
        timeout_s: float,
    ) -> None:
        self._target, self._rules, self._threads = target, rules, threads
        self._timeout_s = timeout_s
        self._found: Sequence[str] = ()
        # One a webhook: a connection that was made for another name is never taken.
        one = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        self._http = httpx.AsyncHTTPTransport(verify=trusted, trust_env=False, limits=one)

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, event: CloudEvent, secrets: Sequence[str]) -> retries.Outcome:
        body = event.model_dump_json().encode()
        signed = standard_webhooks.headers(event.id, int(time.time()), body, secrets)
        try:
            async with asyncio.timeout(self._timeout_s):
                if not self._found:
                    self._found = await targets.resolve(self._target, self._rules, self._threads)
                return await self._asked(signed, body)
        except targets.Forbidden as e:
            return _unreached("forbidden-address", e)
        except (TimeoutError, httpx.TimeoutException) as e:
            return _unreached("timeout", e)
        except OSError as e:
            return _unreached("unresolved", e)
        except httpx.TransportError as e:
            return _unreached("unreachable", e)

    async def _asked(self, signed: Mapping[str, str], body: bytes) -> retries.Outcome:
        failure: httpx.TransportError = httpx.ConnectError("the name has no address")
        for address in self._found:
            try:
                response = await self._http.handle_async_request(
                    self._request(address, signed, body)
                )
            except (httpx.ConnectError, httpx.ConnectTimeout) as e:
                failure = e
                continue
            await _drained(response)
            if response.is_success:
                return retries.Delivered(response.status_code)
            after = response.headers.get("retry-after")
            wait_s = retries.retry_after_s(after, datetime.now(UTC))
            return retries.Refused(response.status_code, wait_s)
        raise failure

    def _request(self, address: str, signed: Mapping[str, str], body: bytes) -> httpx.Request:
        extensions: dict[str, Any] = {
            "timeout": {
                "connect": min(CONNECT_S_MAX, self._timeout_s),
                **dict.fromkeys(("read", "write", "pool"), self._timeout_s),
            }
        }
        if not self._target.is_address:
            extensions["sni_hostname"] = self._target.host  # what the certificate must be for
        headers = {"Content-Type": CONTENT_TYPE, "User-Agent": USER_AGENT, **signed}
        return httpx.Request(
            "POST",
            httpx.URL(self._target.url).copy_with(host=address),
            headers={"Host": self._target.authority, **headers},
            content=body,
            extensions=extensions,
        )


async def _drained(response: httpx.Response) -> None:
    read = 0
    try:
        with suppress(TimeoutError, httpx.TransportError):
            async with asyncio.timeout(BODY_S_MAX):
                async for chunk in response.aiter_raw():
                    read += len(chunk)
                    if read > BODY_BYTES_MAX:
                        break
    finally:
        await response.aclose()


def _unreached(outcome: str, error: Exception) -> retries.Unreached:
    return retries.Unreached(outcome, (str(error) or type(error).__name__)[:WHY_CHARS_MAX])
