"""A running API over real Postgres, NATS and HTTP, with doubles at its neighbours' ports.

The scheduler's views are plain tables here, so that a test decides what is in them; its RPCs are
answered by a stand-in over real NATS; the proof-store is a small real HTTP server.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import databases
import httpx
import nats
import operations_double
import own_ports
import pytest
import real_api
import receiver as receivers
import schedules_double
import webhook_lab
import workflows_double
from faststream.nats import NatsBroker
from nats.aio.client import Client as NatsClient
from proof_store_double import ProofStoreDouble
from receiver import Receiver
from scheduler_double import VIEW_TABLES, Scheduler
from wfhub_api.app import create_app
from wfhub_api.settings import ApiSettings
from wfhub_common import db, streams
from wfhub_common.broker import make_broker, serve
from wfhub_common.httpauth import token_sha256
from wfhub_common.messages import (
    CancelTask,
    CreateProject,
    ExchangesOf,
    ReviewTask,
    SteerTask,
    SubmitTask,
    UsageOf,
)
from wfhub_common.service import Stop, serve_http
from wfhub_common.settings import BrokerSettings

ADMIN_TOKEN = "wht_test-admin-token"
READY_WAIT_S = 60.0  # a busy machine takes its time to start a process


@dataclass
class Hub:
    """Everything a test touches."""

    url: str
    token: str
    scheduler: Scheduler
    proof_store: ProofStoreDouble
    nats: NatsClient
    database_url: str
    http: httpx.AsyncClient
    app: Any
    tmp: Path

    def env(self, **more: str) -> dict[str, str]:
        """The environment of a `wfhub` process that talks to this API."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.tmp),
            "XDG_CONFIG_HOME": str(self.tmp / "config"),
            "WFHUB_URL": self.url,
            "WFHUB_TOKEN": self.token,
            **more,
        }

    async def cli(self, *arguments: str, **env: str) -> "Finished":
        process = await self.start_cli(*arguments, **env)
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(), err.decode())

    async def start_cli(self, *arguments: str, **env: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "wfhub_client.cli",
            *arguments,
            env=self.env(**env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.tmp,
        )


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


@pytest.fixture
def proof_store() -> Iterator[ProofStoreDouble]:
    double = ProofStoreDouble()
    yield double
    double.close()


@pytest.fixture(scope="session")
def database_template(postgres_server: str) -> str:
    return databases.template(postgres_server, real_api.migrate)


@pytest.fixture
async def api(database_url: str, nats_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The API with the real scheduler."""
    async with real_api.serving(database_url, nats_url, tmp_path) as http:
        yield http


@pytest.fixture
async def scheduler(database_url: str, nats_url: str) -> AsyncIterator[Scheduler]:
    pool = await asyncpg.create_pool(database_url, min_size=1, max_size=4)
    doubles = (operations_double, schedules_double, workflows_double)
    await pool.execute("DROP SCHEMA sched CASCADE")  # the real one's, which a real scheduler needs
    await pool.execute(VIEW_TABLES + "".join(double.TABLES for double in doubles))
    client = await nats.connect(nats_url)
    await streams.provision(client.jetstream())
    double = Scheduler(pool, client)
    await double.create_project("test", CreateProject(name="default"))
    broker: NatsBroker = make_broker(BrokerSettings(nats_url=nats_url), name="scheduler")
    serve(broker, "create_project", CreateProject, double.create_project, queue="scheduler")
    serve(broker, "submit_task", SubmitTask, double.submit_task, queue="scheduler")
    serve(broker, "cancel_task", CancelTask, double.cancel_task, queue="scheduler")
    serve(broker, "review_task", ReviewTask, double.review_task, queue="scheduler")
    serve(broker, "steer_task", SteerTask, double.steer_task, queue="scheduler")
    serve(broker, "usage", UsageOf, double.usage_of, queue="gateway")
    serve(broker, "exchanges", ExchangesOf, double.exchanges_of, queue="gateway")
    schedules_double.SchedulesDouble(pool, broker)
    workflows_double.WorkflowsDouble(pool, broker)
    operations_double.OperationsDouble(pool, broker, double.submit_task)
    await broker.start()
    yield double
    double.over.set()
    await broker.stop()
    await client.close()
    await pool.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """That webhooks are sent to."""
    async with receivers.receiving() as made:
        yield made


@pytest.fixture
def api_settings() -> dict[str, Any]:
    """What a file of tests wants set besides."""
    return {}


@pytest.fixture
async def hub(
    api_settings: dict[str, Any],
    scheduler: Scheduler,
    proof_store: ProofStoreDouble,
    database_url: str,
    nats_url: str,
    tmp_path: Path,
) -> AsyncIterator[Hub]:
    settings = ApiSettings(
        nats_url=nats_url,
        database_url=database_url,
        proofs_url=proof_store.url,
        service_token=proof_store.token,
        admin_token_sha256=token_sha256(ADMIN_TOKEN),
        **{"sealing_keys": webhook_lab.KEYS.to_json(), **api_settings},
    )
    stop = Stop()
    broker = make_broker(settings, name="api")
    app = create_app(settings, db.make_engine(database_url, application="api-test"), broker, stop)
    address = f"127.0.0.1:{own_ports.free_port()}"
    serving = asyncio.create_task(serve_http(app, address, stop))
    async with httpx.AsyncClient(
        base_url=f"http://{address}",
        headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
        timeout=20,
        trust_env=False,
    ) as http:
        await ready(http, serving)
        yield Hub(
            url=f"http://{address}",
            token=ADMIN_TOKEN,
            scheduler=scheduler,
            proof_store=proof_store,
            nats=scheduler.nats,
            database_url=database_url,
            http=http,
            app=app,
            tmp=tmp_path,
        )
    stop("test over")
    await asyncio.wait_for(serving, READY_WAIT_S)


async def ready(http: httpx.AsyncClient, serving: "asyncio.Task[None] | None" = None) -> None:
    async with asyncio.timeout(READY_WAIT_S):
        while True:
            if serving is not None and serving.done():
                serving.result()
            try:
                if (await http.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)
