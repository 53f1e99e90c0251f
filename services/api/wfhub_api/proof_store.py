"""Proof-store: reads over HTTP with our service token. Blobs are streamed and checked.

Raises: Rejected (404), RetryLater when the store is down, Corrupt when a blob does not match
its digest (the response is then cut off, since its head has left already).
"""

import hashlib
from collections.abc import AsyncGenerator
from typing import Any

import httpx
from wfhub_common import digests
from wfhub_common.errors import Corrupt, Rejected, RetryLater

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 30.0
CHUNK_BYTES = 64 * 1024


class ProofStore:
    def __init__(self, url: str, token: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def export(self, proof_id: str) -> Any:
        """A proof with all that `wfhub proof verify` needs, as JSON."""
        return (await self._get(f"/proofs/{proof_id}", f"proof {proof_id}")).json()

    async def public_key(self) -> bytes:
        """The signing key's public half, PEM."""
        return (await self._get("/public-key", "the public key")).content

    async def blob(self, digest: str) -> AsyncGenerator[bytes, None]:
        """The blob's bytes; the last chunk comes only if they match the digest."""
        hex_ = digests.hex_of(digests.parse(digest))
        seen, held = hashlib.sha256(), b""
        try:
            async with self._http.stream("GET", f"/blobs/sha256/{hex_}") as response:
                _checked(response, f"blob {digest}")
                async for chunk in response.aiter_raw(CHUNK_BYTES):
                    seen.update(chunk)
                    if held:
                        yield held
                    held = chunk
        except httpx.RemoteProtocolError as e:  # so it does with one that has changed, too
            raise RetryLater(
                "blob-cut",
                f"the proof-store broke off {digest}: ask again; where it does so each time, its"
                " log says blob-corrupt, and the blob is to be restored from a backup",
            ) from e
        except httpx.TransportError as e:
            raise _down(e) from e
        if seen.hexdigest() != hex_:
            raise Corrupt("blob-corrupt", f"the stored bytes of {digest} have another digest")
        if held:
            yield held

    async def _get(self, path: str, what: str) -> httpx.Response:
        try:
            response = await self._http.get(path)
        except httpx.TransportError as e:
            raise _down(e) from e
        _checked(response, what)
        return response


def _checked(response: httpx.Response, what: str) -> None:
    if response.status_code == 404:
        raise Rejected("not-found", f"the proof-store has no {what}", status=404)
    if response.status_code != 200:
        raise RetryLater(
            "proof-store-refused", f"the proof-store answered {response.status_code} for {what}"
        )


def _down(error: httpx.TransportError) -> RetryLater:
    return RetryLater("proof-store-down", f"cannot reach the proof-store: {error}")
