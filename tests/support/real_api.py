"""Test support: the real API and the real scheduler, each a process of its own."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from wfhub_common.httpauth import token_sha256

TOKEN = "wht_real"
WAIT_S = 30.0


@contextlib.asynccontextmanager
async def serving(
    database_url: str, nats_url: str, folder: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that answers; both processes have to stop in order at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "NATS_URL": nats_url,
        "HTTP_LISTEN": address,
        "ADMIN_TOKEN_SHA256": token_sha256(TOKEN),
        "PROOF_PUBLIC_KEY_FILE": str(folder / "key.pub"),
        "LOG_LEVEL": "WARNING",
    }

    async def start(module: str, command: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(sys.executable, "-m", module, command, env=env)

    services = ("wfhub_scheduler.main", "wfhub_api.main")
    for module in services:
        assert await (await start(module, "migrate")).wait() == 0
    running = [await start(module, "serve") for module in services]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        base_url=f"http://{address}", headers=headers, timeout=WAIT_S, trust_env=False
    ) as http:
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    answer = await http.post("/v1/projects", json={"name": "warm"})
                    if answer.status_code in (200, 201):
                        break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)
        yield http
    for process in running:
        process.terminate()
    assert [await process.wait() for process in running] == [0, 0]


async def cli(http: httpx.AsyncClient, home: Path, *arguments: str) -> tuple[int, str, str]:
    """`wfhub …` against it: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wfhub_client.cli", *arguments),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "WFHUB_URL": str(http.base_url),
            "WFHUB_TOKEN": TOKEN,
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=home,
    )
    async with asyncio.timeout(WAIT_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
