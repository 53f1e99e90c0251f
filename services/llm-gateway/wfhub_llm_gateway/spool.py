"""Bodies of exchanges, on their way to the proof-store as content-addressed blobs.

A body is written to a file named by its SHA-256, and PUT to `{PROOFS_URL}/blobs/sha256/<hex>` in
the background until the proof-store has it; then the file goes. What the folder holds is bounded:
beyond SPOOL_BYTES_MAX a body is dropped, with a log line; its digest is in the ledger regardless.
"""

import asyncio
import os
from pathlib import Path

import httpx
from wfhub_common import digests
from wfhub_common.digests import Digest
from wfhub_common.log import get_logger

SPOOL_BYTES_MAX = 1024**3
PUT_TIMEOUT_S = 30.0
RETRY_S_MIN, RETRY_S_MAX = 1.0, 60.0
KEEP_AFTER_S = 0.02  # the work of an exchange goes before: a thread beside it would hold it up
_STORED = (200, 201, 204)
_NEVER = (400, 413, 422)  # the proof-store will not take this body however often it is sent

log = get_logger(__name__)


class Spool:
    def __init__(self, folder: Path, *, proofs_url: str, service_token: str) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._url = proofs_url.rstrip("/")
        self._bytes = sum(file.stat().st_size for file in self._waiting())
        self._more = asyncio.Event()
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {service_token}"} if service_token else {},
            timeout=PUT_TIMEOUT_S,
            trust_env=False,
        )

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    async def add(self, *bodies: bytes) -> None:
        """All of them are there, or given up, when this returns."""
        named = {digests.of_bytes(body): body for body in bodies}
        # One trip to a thread for all: it costs more than the writing.
        self._bytes += await asyncio.to_thread(self._write_all, named)
        self._more.set()

    def _write_all(self, named: dict[Digest, bytes]) -> int:
        """How many bytes more the folder holds."""
        written = 0
        for digest, body in named.items():
            if self._bytes + written + len(body) > SPOOL_BYTES_MAX:
                log.error("spool full, body dropped", digest=digest, bytes=len(body))
                continue
            try:
                if self._write(digests.hex_of(digest), body):
                    written += len(body)
            except OSError as e:
                log.error("spool not writable, body dropped", digest=digest, error=str(e))
        return written

    def _write(self, name: str, body: bytes) -> bool:
        """False: it was there already. The rename makes a file appear whole or not at all."""
        target = self._folder / name
        if target.exists():
            return False
        part = self._folder / f"{name}.{os.urandom(4).hex()}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
        part.rename(target)
        return True

    def _waiting(self) -> list[Path]:
        return [file for file in self._folder.iterdir() if not file.name.endswith(".part")]

    async def run(self) -> None:
        """Until cancelled. Without PROOFS_URL the bodies stay where they are."""
        if not self._url:
            log.warning("PROOFS_URL is not set: bodies of exchanges stay in the spool")
            return
        pause_s = RETRY_S_MIN
        while True:
            self._more.clear()
            try:
                for file in await asyncio.to_thread(self._waiting):
                    await self._send(file)
            except (httpx.HTTPError, OSError) as e:
                log.warning("proof-store unreachable, bodies wait", error=str(e), retry_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_S_MAX)
            else:
                pause_s = RETRY_S_MIN
                await self._more.wait()

    async def _send(self, file: Path) -> None:
        body = await asyncio.to_thread(file.read_bytes)
        url = f"{self._url}/blobs/sha256/{file.name}"
        response = await self._client.put(url, content=body)
        if response.status_code in _NEVER:
            log.error("proof-store refused a body", digest=file.name, status=response.status_code)
        elif response.status_code not in _STORED:
            raise httpx.HTTPStatusError(
                f"HTTP {response.status_code}; 401 or 403: check SERVICE_TOKEN",
                request=response.request,
                response=response,
            )
        await asyncio.to_thread(file.unlink, missing_ok=True)
        self._bytes -= len(body)

    async def close(self) -> None:
        await self._client.aclose()


class Keeping:
    """A body that is written soon, or with those that come after it if they are sooner."""

    def __init__(self, spool: Spool, body: bytes) -> None:
        self._spool, self._body = spool, body
        self._writing: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(KEEP_AFTER_S, self._begin)

    def _begin(self) -> None:
        self._writing = asyncio.create_task(self._spool.add(self._body))

    async def with_more(self, *bodies: bytes) -> None:
        """It and they are there, or given up, when this returns."""
        self._timer.cancel()
        if self._writing is None:
            await self._spool.add(self._body, *bodies)
        else:
            await self._writing
            await self._spool.add(*bodies)
