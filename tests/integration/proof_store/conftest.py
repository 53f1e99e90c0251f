"""A real proof-store process between a real NATS (with the permissions of production), Postgres
and HTTP. The scheduler, the gateway and two runners are stand-ins with those parties' identities.
"""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import databases
import httpx
import nats
import own_ports
import pytest
from faststream.nats import NatsBroker
from nats.aio.client import Client
from wfhub_common import broker as rpc
from wfhub_common import db, digests, httpauth, identities, ids, signing, streams, subjects
from wfhub_common.messages import (
    ArtifactStored,
    Exchange,
    Exchanges,
    ExchangesOf,
    Receipt,
    Receipts,
    ReceiptsOf,
    RunnerObservations,
    SchedulerObservations,
    Sealed,
    SealProof,
    Verdict,
    VerdictStatus,
)
from wfhub_common.settings import BrokerSettings
from wfhub_common.subjects import AttemptSubject
from wfhub_local.nats_server import configuration
from wfhub_proof_store.main import MIGRATIONS, SCHEMA

WAIT_S = 60.0  # for what a busy machine does late
RUNNER, OTHER_RUNNER = ids.new_runner_id(), ids.new_runner_id()
COMMIT = "c" * 40


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await look():  # noqa: ASYNC110 - another process changes it, there is no event
            await asyncio.sleep(0.02)


def spawn(command: list[str], log: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as errors:
        return subprocess.Popen(
            command, env={"PATH": os.environ["PATH"], **env}, stdout=errors, stderr=errors
        )


@dataclass
class Attempt:
    """What one runner uploaded and announced under one attempt."""

    runner: str = RUNNER
    attempt_id: str = field(default_factory=ids.new_attempt_id)
    task_id: str = field(default_factory=ids.new_task_id)
    project_id: str = field(default_factory=ids.new_project_id)

    def subject(self) -> str:
        at = AttemptSubject(self.runner, self.project_id, self.task_id, self.attempt_id, "artifact")
        return subjects.ingest(at)

    def asked(self, receipts: tuple[Receipt, ...]) -> SealProof:
        return SealProof(
            scheduler=SchedulerObservations(
                task_id=self.task_id,
                project_id=self.project_id,
                project="demo",
                attempt_id=self.attempt_id,
                attempt_number=1,
                runner_id=self.runner,
                prompt_digest=digests.of_bytes(b"prompt"),
                spec={"repo": "/r"},
            ),
            runner=RunnerObservations(
                runner_id=self.runner,
                agent="builtin",
                commit=COMMIT,
                verdict=Verdict(status=VerdictStatus.PASSED),
                sandbox={"cpu": 0.5},
            ),
            receipts=receipts,
        )


class StoreProcess:
    """`python -m wfhub_proof_store.main`, started, stopped and killed as a supervisor would."""

    def __init__(self, env: dict[str, str], folder: Path, port: int) -> None:
        self.env, self._folder = env, folder
        self.url = f"http://127.0.0.1:{port}"
        self.root = Path(env["PROOFS_ROOT"])
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, *, prefix: tuple[str, ...] = (), ready: bool = True) -> None:
        command = [*prefix, sys.executable, "-m", "wfhub_proof_store.main"]
        self.process = spawn(command, self._folder / "store.log", self.env)
        if ready:
            await eventually(self.ready)

    async def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(self.url + "/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        process = self.process
        assert process is not None
        self.process = None
        return await asyncio.to_thread(process.wait, WAIT_S)

    def log(self) -> str:
        return (self._folder / "store.log").read_text()

    def unfinished(self) -> list[Path]:
        return [p for p in self.root.glob("tmp/*/*") if p.name != "lock"]


@dataclass
class Hub:
    store: StoreProcess
    database_url: str
    tokens: dict[str, str]
    clients: dict[str, Client]
    scheduler: NatsBroker
    runners: dict[str, NatsBroker]
    gateway: NatsBroker
    exchanges: dict[str, tuple[Exchange, ...]]

    def http(self, sender: str = RUNNER) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.tokens[sender]}"}
        return httpx.AsyncClient(base_url=self.store.url, headers=headers, timeout=WAIT_S)

    async def upload(self, data: bytes) -> None:
        name = digests.hex_of(digests.of_bytes(data))
        async with self.http() as client:
            answer = await client.put(f"/blobs/sha256/{name}", content=data)
        assert answer.status_code in {200, 201}, answer.text

    async def announce(self, attempt: Attempt, name: str, data: bytes) -> None:
        message = ArtifactStored(
            attempt_id=attempt.attempt_id,
            name=name,
            digest=digests.of_bytes(data),
            size=len(data),
        )
        await self.publish(attempt, message.model_dump_json().encode())

    async def publish(self, attempt: Attempt, body: bytes) -> None:
        js = self.clients[attempt.runner].jetstream()
        await js.publish(attempt.subject(), body, stream=subjects.INGEST_STREAM, timeout=WAIT_S)

    async def receipts(self, attempt: Attempt, *names: str, wait_s: float = 15.0) -> Receipts:
        return await rpc.ask(
            self.runners[attempt.runner],
            attempt.runner,
            "receipts",
            ReceiptsOf(attempt_id=attempt.attempt_id, names=names, wait_s=wait_s),
            Receipts,
            timeout_s=wait_s + 5,
        )

    async def received(self, attempt: Attempt, **blobs: bytes) -> tuple[Receipt, ...]:
        """Upload and announce everything, and wait for the receipts. `_` in a name is a dot."""
        named = {name.replace("_", "."): data for name, data in blobs.items()}
        for name, data in named.items():
            await self.upload(data)
            await self.announce(attempt, name, data)
        found = await self.receipts(attempt, *named)
        assert found.refused == {}
        assert {each.name for each in found.receipts} == set(named)
        return found.receipts

    async def seal(self, asked: SealProof) -> Sealed:
        return await rpc.ask(
            self.scheduler, subjects.SCHEDULER, "seal", asked, Sealed, timeout_s=15.0
        )

    def public_key(self) -> signing.PublicKey:
        path = signing.public_key_path(self.store.env["SIGNING_KEY_FILE"])
        return signing.load_public_key(path)


@pytest.fixture
def passwords() -> dict[str, str]:
    users = [*identities.SERVICES, RUNNER, OTHER_RUNNER]
    return {user: secrets.token_hex(8) for user in users}


class NatsProcess:
    """A NATS server with JetStream where each party may do what it may in production."""

    def __init__(self, folder: Path, passwords: dict[str, str]) -> None:
        self._folder, self._port = folder, own_ports.free_port()
        self.url = f"nats://127.0.0.1:{self._port}"
        config = configuration(port=self._port, store=folder / "jetstream", passwords=passwords)
        (folder / "nats.conf").write_text(config)
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        binary = Path(sysconfig.get_path("scripts")) / "nats-server"
        command = [str(binary), "-c", str(self._folder / "nats.conf")]
        self._process = spawn(command, self._folder / "nats.log", {})
        await eventually(self._listens)

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(WAIT_S)
            self._process = None


@pytest.fixture
async def nats_server(tmp_path: Path, passwords: dict[str, str]) -> AsyncIterator[NatsProcess]:
    server = NatsProcess(tmp_path, passwords)
    await server.start()
    yield server
    server.stop()


@pytest.fixture
def nats_url(nats_server: NatsProcess) -> str:
    return nats_server.url


@pytest.fixture(scope="session")
def database_template(postgres_server: str) -> str:
    def migrate(url: str) -> None:
        db.migrate(url, schema=SCHEMA, migrations=MIGRATIONS)

    return databases.template(postgres_server, migrate)


@pytest.fixture
async def hub(
    tmp_path: Path, database_url: str, nats_url: str, passwords: dict[str, str]
) -> AsyncIterator[Hub]:
    """Everything but the store is up; a test starts that, with settings of its own if it wants."""
    senders = (RUNNER, OTHER_RUNNER, subjects.API, subjects.SCHEDULER, subjects.GATEWAY)
    tokens = {sender: httpauth.new_token(httpauth.SERVICE_TOKEN_PREFIX) for sender in senders}
    accepted = {sender: httpauth.token_sha256(token) for sender, token in tokens.items()}
    (tmp_path / "tokens.json").write_text(json.dumps(accepted))
    port = own_ports.free_port()
    env = {
        "NATS_URL": nats_url,
        "NATS_USER": subjects.PROOF_STORE,
        "NATS_PASSWORD": passwords[subjects.PROOF_STORE],
        "DATABASE_URL": database_url,
        "HTTP_LISTEN": f"127.0.0.1:{port}",
        "PROOFS_ROOT": str(tmp_path / "proofs"),
        "SIGNING_KEY_FILE": str(tmp_path / "keys" / "signing.pem"),
        "SERVICE_TOKENS_FILE": str(tmp_path / "tokens.json"),
    }
    exchanges: dict[str, tuple[Exchange, ...]] = {}

    async def answer(_sender: str, asked: ExchangesOf) -> Exchanges:
        found = exchanges.get(asked.attempt_id, ())
        return Exchanges(
            attempt_id=asked.attempt_id,
            exchanges=found,
            prompt_tokens=sum(each.prompt_tokens for each in found),
            completion_tokens=sum(each.completion_tokens for each in found),
        )

    def broker_of(user: str) -> NatsBroker:
        settings = BrokerSettings(nats_url=nats_url, nats_user=user, nats_password=passwords[user])
        return rpc.make_broker(settings, name=user)

    async with AsyncExitStack() as stack:
        clients = {}
        for user in (subjects.SCHEDULER, subjects.API, RUNNER, OTHER_RUNNER):
            clients[user] = await nats.connect(
                nats_url, user=user, password=passwords[user], inbox_prefix=f"_INBOX.{user}"
            )
            stack.push_async_callback(clients[user].close)
        await streams.provision(clients[subjects.SCHEDULER].jetstream())
        brokers = {
            user: broker_of(user)
            for user in (subjects.SCHEDULER, subjects.GATEWAY, RUNNER, OTHER_RUNNER)
        }
        gateway = brokers[subjects.GATEWAY]
        rpc.serve(gateway, "exchanges", ExchangesOf, answer, queue=subjects.GATEWAY)
        for broker in brokers.values():
            await broker.start()
            stack.push_async_callback(broker.stop)
        store = StoreProcess(env, tmp_path, port)
        yield Hub(
            store=store,
            database_url=database_url,
            tokens=tokens,
            clients=clients,
            scheduler=brokers[subjects.SCHEDULER],
            runners={user: brokers[user] for user in (RUNNER, OTHER_RUNNER)},
            gateway=gateway,
            exchanges=exchanges,
        )
        if store.process is not None:
            assert await store.end() == 0, store.log()


@pytest.fixture
async def running(hub: Hub) -> Hub:
    await hub.store.start()
    return hub
