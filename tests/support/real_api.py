"""Test support: the real API and the real scheduler, served from this process over real HTTP.

The database is to have been migrated (`migrate`): a folder's tests copy one that was.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import own_ports
import wfhub_api.main
import wfhub_scheduler.main
from wfhub_api.settings import ApiSettings
from wfhub_common import db
from wfhub_common.httpauth import token_sha256
from wfhub_common.service import Stop
from wfhub_scheduler.settings import SchedulerSettings

TOKEN = "wht_real"
WAIT_S = 30.0


def migrate(database_url: str) -> None:
    """The API's schema and the scheduler's. Blocking."""
    wfhub_scheduler.main.migrate(database_url)
    api = wfhub_api.main
    db.migrate(database_url, schema=api.SCHEMA, migrations=api.MIGRATIONS)


@contextlib.asynccontextmanager
async def serving(
    database_url: str, nats_url: str, folder: Path, **api_settings: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an API that answers; both services have to stop in order at the end."""
    address = f"127.0.0.1:{own_ports.free_port()}"
    scheduler = SchedulerSettings(
        nats_url=nats_url,
        database_url=database_url,
        proof_public_key_file=str(folder / "key.pub"),
        retry_base_s=0.02,
        lease_ttl_s=3600,  # no runner beats here, and a busy machine takes longer than the default
    )
    api = ApiSettings(
        nats_url=nats_url,
        database_url=database_url,
        http_listen=address,
        admin_token_sha256=token_sha256(TOKEN),
        **api_settings,
    )
    stops = Stop(), Stop()
    running = [
        asyncio.create_task(wfhub_scheduler.main.serve(scheduler, stops[0])),
        asyncio.create_task(wfhub_api.main.serve(api, stops[1])),
    ]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        base_url=f"http://{address}", headers=headers, timeout=WAIT_S, trust_env=False
    ) as http:
        await _answers(http)
        yield http
    for stop in stops:
        stop("signal TEST")
    await asyncio.gather(*running)


async def _answers(http: httpx.AsyncClient) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await http.post("/v1/projects", json={"name": "warm"})
                if answer.status_code in (200, 201):
                    return
            await asyncio.sleep(0.02)


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
