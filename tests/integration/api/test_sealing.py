"""Secrets of webhooks in the database: sealed there, read whatever way they stand, and changed."""

import asyncio
import base64
import os
import sys
from typing import Any

import asyncpg
import own_ports
import pytest
from receiver import Receiver
from webhook_lab import KEYS, LOCAL, PATH, events, made, shown, signed_by, until
from wfhub_common import sealed, standard_webhooks

MORE_KEYS = sealed.grown(KEYS, 2)
OTHERS = sealed.grown(sealed.Keys(), 2)


@pytest.fixture
def api_settings() -> dict[str, Any]:
    return {**LOCAL, "webhook_retry_base_s": 0.01, "sealing_keys": MORE_KEYS.to_json()}


async def database_text(url: str) -> str:
    """Every column of every row, as text."""
    pg = await asyncpg.connect(url)
    tables = await pg.fetch(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables"
        " WHERE schemaname IN ('sched', 'api', 'proofs', 'gateway')"
    )
    rows = [await pg.fetch(f"SELECT t::text AS line FROM {t['name']} t") for t in tables]
    await pg.close()
    return "\n".join(row["line"] for table in rows for row in table)


async def wfhub_api(url: str, *words: str, keys: str = "", **env: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wfhub_api.main", *words),
        env={"PATH": os.environ["PATH"], "DATABASE_URL": url, "SEALING_KEYS": keys, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_no_secret_stands_in_the_database_and_both_sign(hub: Any, receiver: Receiver) -> None:
    hook = await made(hub, receiver)
    rotated = (await hub.http.post(f"/v1/webhooks/{hook['webhook_id']}/rotate")).json()
    text = await database_text(hub.database_url)
    assert hook["webhook_id"] in text
    assert "sealed:1:" in text
    for canary in (hook["secret"], rotated["secret"]):
        drawn = base64.b64decode(canary.removeprefix(standard_webhooks.SECRET_PREFIX))
        for form in (canary, canary.removeprefix("whsec_"), drawn.hex()):
            assert form not in text
    await events(hub, 1)
    (one,) = await receiver.got(PATH, 1)
    assert signed_by(hook["secret"], one)
    assert signed_by(rotated["secret"], one)


async def test_what_the_version_before_wrote_is_read_and_written_until_sealing_is_begun(
    hub: Any, receiver: Receiver
) -> None:
    pg = await asyncpg.connect(hub.database_url)
    await pg.execute("UPDATE api.sealing SET key_number = NULL")  # as an upgrade leaves it
    hook = await made(hub, receiver)
    assert await pg.fetchval("SELECT secret FROM api.webhook") == hook["secret"]
    await events(hub, 1)
    assert signed_by(hook["secret"], (await receiver.got(PATH, 1))[0])

    url, keys = hub.database_url, MORE_KEYS.to_json()
    code, out, err = await wfhub_api(url, "sealing", "on", keys=keys)
    assert (code, out) == (0, "1 webhooks, sealed under key 2\n"), err
    assert hook["secret"] not in await database_text(url)
    second = await made(hub, receiver, "/second")
    assert second["secret"] not in await database_text(url)
    await events(hub, 1)
    assert signed_by(hook["secret"], (await receiver.got(PATH, 2))[1])
    assert signed_by(second["secret"], (await receiver.got("/second", 1))[0])

    code, out, err = await wfhub_api(url, "sealing", "off", keys=keys)
    assert (code, out) == (0, "2 webhooks, in clear\n"), err
    written = {row["secret"] for row in await pg.fetch("SELECT secret FROM api.webhook")}
    assert written == {hook["secret"], second["secret"]}, "as the version before reads them"
    await pg.close()


async def test_a_rotation_by_the_version_before_leaves_what_both_read(
    hub: Any, receiver: Receiver
) -> None:
    hook = await made(hub, receiver)
    theirs = standard_webhooks.new_secret()
    pg = await asyncpg.connect(hub.database_url)
    await pg.execute(  # its statement
        "UPDATE api.webhook SET secret_before = secret, secret = $1,"
        " secret_before_until = clock_timestamp() + interval '1 h'",
        theirs,
    )
    await pg.close()
    await events(hub, 1)
    (one,) = await receiver.got(PATH, 1)
    assert signed_by(hook["secret"], one)
    assert signed_by(theirs, one)
    code, _, err = await wfhub_api(hub.database_url, "sealing", "on", keys=MORE_KEYS.to_json())
    assert code == 0, err
    text = await database_text(hub.database_url)
    assert theirs not in text
    assert "sealed:1:" not in text, "all of them are under the newest key"


async def test_a_secret_copied_to_another_webhook_signs_nothing(
    hub: Any, receiver: Receiver
) -> None:
    hook, other = await made(hub, receiver), await made(hub, receiver, "/other")
    pg = await asyncpg.connect(hub.database_url)
    await pg.execute(
        "UPDATE api.webhook SET secret = (SELECT secret FROM api.webhook WHERE webhook_id = $2)"
        " WHERE webhook_id = $1",
        *(hook["webhook_id"], other["webhook_id"]),
    )
    await pg.close()
    told = (await hub.http.post(f"/v1/webhooks/{hook['webhook_id']}/test")).json()
    assert told["outcome"] == "secret-unopened"
    assert "another installation's key 1" in told["why"]
    await events(hub, 1)
    await receiver.got("/other", 1)
    row = await until(hub, hook["webhook_id"], last_outcome="secret-unopened")
    assert row["position"] == hook["position"], "it waits, and loses nothing"
    assert not receiver.positions(PATH)


async def test_without_its_keys_an_api_does_not_start_and_new_secrets_are_a_way_out(
    hub: Any, receiver: Receiver, nats_url: str
) -> None:
    hook = await made(hub, receiver)
    url, others = hub.database_url, OTHERS.to_json()
    address = {"NATS_URL": nats_url, "HTTP_LISTEN": f"127.0.0.1:{own_ports.free_port()}"}
    for keys, why in (("", "there are no keys"), (others, "another installation's key 1")):
        code, _, err = await wfhub_api(url, "serve", keys=keys, **address)
        last = err.strip().splitlines()[-1]
        assert code == 1
        assert last.startswith("bad settings: SEALING_KEYS_FILE: secrets of 1 webhooks do not open")
        assert hook["webhook_id"] in last
        assert why in last
        assert "Traceback" not in err
    code, _, err = await wfhub_api(url, "sealing", "off", keys=others)
    assert (code, "nothing was changed" in err) == (1, True)
    code, out, err = await wfhub_api(url, "sealing", "renew", keys=others)
    assert (code, hook["webhook_id"] in out) == (0, True), err
    assert "whsec_" not in out
    pg = await asyncpg.connect(url)
    stored = await pg.fetchval("SELECT secret FROM api.webhook")
    await pg.close()
    assert OTHERS.opened(stored, of=f"api.webhook/{hook['webhook_id']}").startswith("whsec_")


@pytest.mark.parametrize("keys", ["", "{}"])
async def test_sealing_cannot_begin_without_a_key(keys: str, database_url: str) -> None:
    code, _, err = await wfhub_api(database_url, "sealing", "on", keys=keys)
    assert code == 1
    assert err.startswith("bad settings: SEALING_KEYS_FILE: ")


async def test_what_is_no_keys_ends_it_by_name(database_url: str) -> None:
    code, _, err = await wfhub_api(database_url, "serve", keys='{"1": "c2hvcnQ="}')
    assert code == 1
    assert err.startswith("bad settings: SEALING_KEYS: ")
    assert "c2hvcnQ" not in err


async def test_without_a_key_no_webhook_is_made_or_given_a_secret_in_clear(
    hub: Any, receiver: Receiver
) -> None:
    hook = await made(hub, receiver)
    pg = await asyncpg.connect(hub.database_url)
    await pg.execute("UPDATE api.sealing SET key_number = 3")
    body = {"url": receiver.url + "/more"}
    rotation = f"/v1/webhooks/{hook['webhook_id']}/rotate"
    for answer in (
        await hub.http.post("/v1/webhooks", json=body),
        await hub.http.post(rotation),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "no-sealing-key")
    assert await pg.fetchval("SELECT count(*) FROM api.webhook") == 1
    await pg.close()
    assert (await shown(hub, hook["webhook_id"]))["secret_before_until"] is None


async def test_one_that_is_made_while_sealing_begins_is_sealed_too(
    hub: Any, receiver: Receiver
) -> None:
    """Writers that had looked before it are waited for; those after it see it."""
    pg = await asyncpg.connect(hub.database_url)
    await pg.execute("UPDATE api.sealing SET key_number = NULL")
    making = [asyncio.create_task(made(hub, receiver, f"/{n}")) for n in range(12)]
    code, _, err = await wfhub_api(hub.database_url, "sealing", "on", keys=MORE_KEYS.to_json())
    assert code == 0, err
    making += [asyncio.create_task(made(hub, receiver, "/last"))]
    hooks = await asyncio.gather(*making)
    stored = await pg.fetch("SELECT secret FROM api.webhook")
    await pg.close()
    assert len(stored) == len(hooks)
    assert {sealed.number_of(row["secret"]) for row in stored} == {2}


async def test_an_upgrade_with_webhooks_begins_in_clear_and_a_new_installation_sealed(
    empty_database: str,
) -> None:
    code, _, err = await wfhub_api(empty_database, "migrate")
    assert code == 0, err
    pg = await asyncpg.connect(empty_database)
    assert await pg.fetchval("SELECT key_number FROM api.sealing") == 1
    await pg.execute(
        "INSERT INTO api.webhook (webhook_id, url, events, secret, created_by, body_sha256)"
        " VALUES ('whk_1', 'https://example.org', '{}', 'whsec_x', 'admin', '')"
    )
    await pg.execute("DROP TABLE api.sealing; UPDATE api.migration SET version_num = '0002'")
    code, _, err = await wfhub_api(empty_database, "migrate")
    assert code == 0, err
    assert await pg.fetch("SELECT key_number FROM api.sealing") == [(None,)]
    await pg.close()


@pytest.fixture
async def empty_database(database_url: str) -> str:
    pg = await asyncpg.connect(database_url)
    await pg.execute("DROP SCHEMA api CASCADE")
    await pg.close()
    return database_url
