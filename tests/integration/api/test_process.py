"""The service as a process: starts before its neighbours, says what is missing, stops cleanly."""

import asyncio
import os
import secrets
import signal
import sys
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import own_ports
import pytest
from wfhub_api import views
from wfhub_api.app import create_app
from wfhub_api.routes import health
from wfhub_api.settings import ApiSettings
from wfhub_common import db
from wfhub_common.broker import make_broker
from wfhub_common.errors import RetryLater
from wfhub_common.httpauth import token_sha256
from wfhub_common.service import Stop


async def service(*arguments: str, **env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wfhub_api.main", *arguments),
        env={"PATH": os.environ["PATH"], **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def finished(process: asyncio.subprocess.Process) -> tuple[int, str, str]:
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_bad_settings_end_it_with_one_line() -> None:
    code, _, err = await finished(await service("serve"))
    assert code != 0
    assert err.strip() == "bad settings: DATABASE_URL: Field required"


async def test_it_serves_while_waiting_for_its_neighbours_and_stops_cleanly() -> None:
    port = own_ports.free_port()
    process = await service(
        DATABASE_URL=f"postgresql://postgres@127.0.0.1:{own_ports.free_port()}/none",
        NATS_URL=f"nats://127.0.0.1:{own_ports.free_port()}",
        HTTP_LISTEN=f"127.0.0.1:{port}",
        ADMIN_TOKEN_SHA256=token_sha256("wht_x"),
    )
    async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as http:
        while True:
            try:
                answer = await http.get(f"http://127.0.0.1:{port}/readyz")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.02)
        assert answer.status_code == 503
        assert set(answer.json()["not_ready"]) == {"database", "nats"}
        header = {"Authorization": "Bearer wht_x"}
        tasks = await http.get(f"http://127.0.0.1:{port}/v1/tasks", headers=header)
        assert (tasks.status_code, tasks.json()["code"]) == (503, "database-down")
        other = {"Authorization": "Bearer wht_y"}
        unknown = await http.get(f"http://127.0.0.1:{port}/v1/tasks", headers=other)
        assert unknown.status_code == 503  # it may be a token: nobody can tell now
    process.send_signal(signal.SIGTERM)
    code, _, err = await finished(process)
    assert code == 0, err
    assert "not ready yet" in err
    assert "Traceback" not in err


async def test_a_schema_that_is_made_and_not_granted_yet_is_waited_for(database_url: str) -> None:
    """As while the job that provisions is at work, beside which a cluster starts this."""
    role = f"early_{secrets.token_hex(4)}"
    pg = await asyncpg.connect(database_url)
    await pg.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'early'")
    await pg.execute("CREATE SCHEMA IF NOT EXISTS sched")
    to = urlsplit(database_url)
    url = to._replace(netloc=f"{role}:early@{to.hostname}:{to.port}").geturl()
    engine = db.make_engine(url, application="test")
    try:
        with pytest.raises(RetryLater) as refused:
            await views.missing(engine)
    finally:
        await engine.dispose()
        await pg.execute(f"DROP ROLE {role}")
        await pg.close()
    assert refused.value.code == "not-migrated"


@pytest.mark.parametrize("missing", ["role", "database"])
async def test_a_role_or_database_that_is_not_made_yet_is_waited_for(
    missing: str, database_url: str
) -> None:
    to = urlsplit(database_url)
    if missing == "role":
        to = to._replace(netloc=f"nobody_{secrets.token_hex(4)}@{to.hostname}:{to.port}")
    else:
        to = to._replace(path="/not_made_yet")
    engine = db.make_engine(to.geturl(), application="test")
    try:
        with pytest.raises(RetryLater) as refused:
            await views.missing(engine)
    finally:
        await engine.dispose()
    assert "does not let us in" in refused.value.message


async def test_a_start_that_breaks_off_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    """It would answer that it is alive, and never be ready."""

    async def breaks(_: object) -> dict[str, str]:
        raise RuntimeError("what nobody foresaw")

    monkeypatch.setattr(health, "not_ready", breaks)
    settings = ApiSettings(
        database_url=database_url,
        nats_url=f"nats://127.0.0.1:{own_ports.free_port()}",
        admin_token_sha256=token_sha256("wht_x"),
    )
    engine, stop = db.make_engine(database_url, application="test"), Stop()
    app = create_app(settings, engine, make_broker(settings, name="test"), stop)
    async with asyncio.timeout(30), app.router.lifespan_context(app):
        await stop.wait()
    assert stop.fatal is not None
    assert "what nobody foresaw" in stop.fatal


async def test_a_stop_ends_open_streams_at_once(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    async with hub.http.stream("GET", f"/v1/tasks/{task_id}/events") as response:
        lines = response.aiter_lines()
        await anext(lines)
        hub.app.state.hub.stop("test")
        async with asyncio.timeout(5):
            async for _ in lines:
                pass


async def emptied(database_url: str) -> None:
    pg = await asyncpg.connect(database_url)
    await pg.execute("DROP SCHEMA api CASCADE")
    await pg.close()


async def test_migrate_is_repeatable_and_tokens_are_made_listed_and_revoked(
    database_url: str,
) -> None:
    await emptied(database_url)
    env = {"DATABASE_URL": database_url}
    for _ in range(2):
        code, _, err = await finished(await service("migrate", **env))
        assert code == 0, err
    code, out, _ = await finished(await service("token", "new", "ci", **env))
    token_id, token = out.split()
    assert (code, token.startswith("wht_")) == (0, True)
    _, listed, _ = await finished(await service("token", "list", **env))
    assert token_id in listed
    assert "live" in listed
    assert (await finished(await service("token", "revoke", token_id, **env)))[0] == 0
    code, _, err = await finished(await service("token", "revoke", token_id, **env))
    assert (code, "token-not-found" in err) == (1, True)
    for name in ("admin", "bob\n", "\x1b[2J"):
        code, _, err = await finished(await service("token", "new", name, **env))
        assert (code, "name who has it" in err) == (1, True), name
    assert (await finished(await service("nonsense", **env)))[0] == 1
