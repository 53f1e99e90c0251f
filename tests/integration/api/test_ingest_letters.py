"""Dead letters of the real proof-store, decided over REST and at the prompt."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import nats
import pytest
import real_api
import wfhub_proof_store.main
from nats.aio.client import Client
from wfhub_common import db, digests, ids, subjects
from wfhub_common.messages import ArtifactStored
from wfhub_common.service import Stop
from wfhub_common.subjects import AttemptSubject
from wfhub_proof_store.letters import FAILURES_MAX
from wfhub_proof_store.settings import ProofStoreSettings

BLOB = b"data"
AT = AttemptSubject(
    ids.new_runner_id(), ids.new_project_id(), ids.new_task_id(), ids.new_attempt_id(), "artifact"
)
POISON = """
CREATE FUNCTION proofs.poison() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'poison'; END $$;
CREATE TRIGGER poison BEFORE INSERT ON proofs.artifact
    FOR EACH ROW EXECUTE FUNCTION proofs.poison()
"""


@pytest.fixture
async def api(database_url: str, nats_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        real_api.serving(database_url, nats_url, tmp_path) as http,
        proof_store(database_url, nats_url, tmp_path),
    ):
        yield http


@contextlib.asynccontextmanager
async def proof_store(database_url: str, nats_url: str, folder: Path) -> AsyncIterator[None]:
    """In this process; it takes announcements and decides letters."""
    module = wfhub_proof_store.main
    await asyncio.to_thread(
        db.migrate, database_url, schema=module.SCHEMA, migrations=module.MIGRATIONS
    )
    (folder / "tokens.json").write_text("{}")
    settings = ProofStoreSettings(
        nats_url=nats_url,
        database_url=database_url,
        http_listen="127.0.0.1:0",
        proofs_root=str(folder / "proofs"),
        signing_key_file=str(folder / "signing.pem"),
        service_tokens_file=str(folder / "tokens.json"),
    )
    stop = Stop()
    serving = asyncio.create_task(module.serve(settings, stop))
    yield
    stop("signal TEST")
    await serving


@pytest.fixture
async def client(nats_url: str) -> AsyncIterator[Client]:
    connected = await nats.connect(nats_url)
    yield connected
    await connected.close()


@pytest.fixture
async def pg(api: httpx.AsyncClient, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def announced(client: Client, body: bytes) -> None:
    await client.jetstream().publish(subjects.ingest(AT), body)


async def open_letter(api: httpx.AsyncClient) -> dict[str, Any]:
    async with asyncio.timeout(real_api.WAIT_S):
        while True:
            found = (await api.get("/v1/dead-letters", params={"state": "open"})).json()
            if found["dead_letters"]:
                (letter,) = found["dead_letters"]
                return dict(letter)
            await asyncio.sleep(0.05)


async def test_what_nobody_can_read_is_shown_refused_again_and_discarded(
    api: httpx.AsyncClient, client: Client, tmp_path: Path
) -> None:
    await announced(client, b'{"attempt_id": "\xff\x00')
    letter = await open_letter(api)
    assert (letter["service"], letter["source"]) == ("proof-store", "ingest")
    assert (letter["code"], letter["sender"]) == ("message-malformed", AT.runner_id)

    async def cli(*arguments: str) -> tuple[int, str, str]:
        return await real_api.cli(
            api, tmp_path, "dead-letter", *arguments, letter["dead_letter_id"]
        )

    code, out, _ = await cli("show", "--json")
    assert (code, json.loads(out)["body_is_base64"]) == (0, True)
    code, _, err = await cli("replay")
    assert code == 1
    assert "refused again" in err
    assert (await open_letter(api))["failures"] == 1
    code, out, _ = await cli("discard")
    assert (code, out) == (0, f"{letter['dead_letter_id']}: discarded\n")


async def test_what_the_store_failed_on_has_its_receipt_after_a_replay(
    api: httpx.AsyncClient, client: Client, pg: asyncpg.Connection, tmp_path: Path
) -> None:
    digest = digests.of_bytes(BLOB)
    blob = tmp_path / "proofs" / "sha256" / digests.hex_of(digest)[:2] / digests.hex_of(digest)[2:4]
    blob.mkdir(parents=True)
    (blob / digests.hex_of(digest)).write_bytes(BLOB)
    await pg.execute(POISON)
    message = ArtifactStored(attempt_id=AT.attempt_id, name="log", digest=digest, size=len(BLOB))
    await announced(client, message.model_dump_json().encode())
    letter = await open_letter(api)
    assert letter["failures"] == FAILURES_MAX
    path = f"/v1/dead-letters/{letter['dead_letter_id']}/replay"
    again = await api.post(path)
    assert (again.status_code, again.json()["code"]) == (503, "replay-failed")
    await pg.execute("DROP FUNCTION proofs.poison CASCADE")
    decided = await api.post(path)
    assert (decided.status_code, decided.json()["outcome"]) == (200, "the artifact has its receipt")
    assert await pg.fetchval("SELECT name FROM proofs.artifact") == "log"
    assert (await api.post(path)).json()["repeated"]
