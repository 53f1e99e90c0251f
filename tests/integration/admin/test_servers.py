"""What the provisioner makes, on real servers: three NATS servers as one, and Postgres."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import nats
import nats.errors
import own_ports
import pytest
from wfhub_admin import credentials, database
from wfhub_admin.outlay import NATS, Truth, Where, outlay
from wfhub_common import privileges, streams, subjects
from wfhub_local import nats_server

READY_S_MAX = 60.0
UID = privileges.SERVICE_UIDS["postgres"]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[tuple[list[str], str]]:
    """URLs of three servers with one configuration but for where they listen, and a password."""
    truth = Truth(credentials.with_identities(credentials.new(), 1), "", "")
    peers = [own_ports.free_port() for _ in range(3)]
    where = Where("nats://x", nats_routes=tuple(f"nats://127.0.0.1:{port}" for port in peers))
    made = json.loads(outlay(truth, where, provider_keys={})[NATS]["nats.conf"])
    urls, servers = [], []
    for number, peer in enumerate(peers):
        client, monitor = own_ports.free_port(), own_ports.free_port()
        made |= {"listen": f"127.0.0.1:{client}", "http": f"127.0.0.1:{monitor}"}
        made["cluster"]["listen"] = f"127.0.0.1:{peer}"
        made["jetstream"]["store_dir"] = str(tmp_path / f"js-{number}")
        config = tmp_path / f"nats-{number}.conf"
        config.write_text(json.dumps(made))
        argv = [nats_server.binary(), "--config", config, "--name", f"hub-nats-{number}"]
        servers.append(subprocess.Popen(argv, stderr=subprocess.DEVNULL))  # noqa: ASYNC220
        urls.append(f"nats://127.0.0.1:{client}")
    yield urls, truth.credentials.nats[subjects.SCHEDULER]
    for server in servers:
        server.terminate()
        server.wait(20)


async def test_three_servers_hold_every_stream_three_times(
    cluster: tuple[list[str], str],
) -> None:
    urls, password = cluster
    client = await nats.connect(
        urls,
        user=subjects.SCHEDULER,
        password=password,
        inbox_prefix=f"_INBOX.{subjects.SCHEDULER}",
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,
    )
    js = client.jetstream(timeout=10)
    deadline = time.monotonic() + READY_S_MAX
    while True:
        try:
            await streams.provision(js, replicas=3)
            break
        except (TimeoutError, nats.errors.Error):  # no leader is chosen yet
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)
    for config in streams.configs(3):
        assert config.name is not None
        info = await js.stream_info(config.name)
        assert info.config.num_replicas == 3
        assert info.cluster is not None
        assert len(info.cluster.replicas or []) == 2
    await client.close()


async def test_the_database_is_waited_for_and_each_role_owns_its_schema(
    tmp_path: Path,
) -> None:
    """The server of the container, as the container starts it."""
    have = credentials.with_identities(credentials.new(), 1)
    folder = tmp_path / "pg"
    folder.mkdir()
    password = tmp_path / "password"
    password.write_text(have.database[credentials.DATABASE_ADMIN])
    port = own_ports.free_port()
    code = (
        "import sys; from pathlib import Path; from wfhub_admin import postgres;"
        f"postgres.PORT = {port}; root = Path(sys.argv[1]);"
        "postgres.serve(root / 'pg', password_file=root / 'password', runtime=root)"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    if os.geteuid() == 0:  # Postgres refuses to be root
        for path in (folder, password, tmp_path):
            os.chown(path, UID, UID)
        argv = privileges.launcher(
            UID, argv, keep_visible=privileges.code_paths(), keep_writable=(tmp_path,)
        )
    plan = database.own(have, "127.0.0.1", port)

    def bring_up() -> subprocess.Popen[bytes]:
        return subprocess.Popen(argv, cwd="/", stderr=subprocess.DEVNULL)

    server = bring_up()
    try:
        await asyncio.to_thread(database.wait, plan, within_s=READY_S_MAX)
        await asyncio.to_thread(database.carry_out, plan)
        await asyncio.to_thread(database.carry_out, plan)  # again: nothing to do
        url = database.service_url(have, subjects.API, "127.0.0.1", port)
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT count(*) FROM api.token") == 0
        with pytest.raises(asyncpg.PostgresError):
            await connection.fetchval("SELECT count(*) FROM sched.task")
        await connection.close()
        wrong = database.own(credentials.with_identities(credentials.new(), 1), "127.0.0.1", port)
        with pytest.raises(SystemExit, match="refuses the password"):
            await asyncio.to_thread(database.wait, wrong, within_s=5)

        server.send_signal(signal.SIGKILL)
        server.wait(20)
        server = bring_up()  # over what a killed one left
        await asyncio.to_thread(database.wait, plan, within_s=READY_S_MAX)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def test_a_database_that_never_comes_is_told_in_time() -> None:
    plan = database.external(f"postgresql://x:y@127.0.0.1:{own_ports.free_port()}/x")
    with pytest.raises(SystemExit, match="did not answer within 1 s"):
        database.wait(plan, within_s=1)
