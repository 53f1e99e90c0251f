"""Dead letters over REST and by `wfhub dead-letter`: with the real scheduler, which makes them."""

import asyncio
import json
from pathlib import Path

import asyncpg
import httpx
import real_api
from wfhub_common import db, ids
from wfhub_proof_store.main import MIGRATIONS, SCHEMA
from wfhub_scheduler.dead_letters import RPC_FAILURES_MAX

POISON = """
CREATE FUNCTION sched.poison() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'poison'; END $$;
CREATE TRIGGER poison BEFORE INSERT ON sched.task
    FOR EACH ROW WHEN (NEW.title = 'poison') EXECUTE FUNCTION sched.poison()
"""
TASK = {"repo": "/r", "prompt": "p", "title": "poison"}


async def poisoned(api: httpx.AsyncClient, database_url: str) -> str:
    """A task was submitted until a dead letter came of it; the letter's id."""
    await run_sql(database_url, POISON)
    for _ in range(RPC_FAILURES_MAX):
        answer = await api.post("/v1/tasks", json=TASK, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["code"]) == (503, "internal")
    await run_sql(database_url, "DROP FUNCTION sched.poison CASCADE")
    (letter,) = (await api.get("/v1/dead-letters")).json()["dead_letters"]
    return str(letter["dead_letter_id"])


async def run_sql(database_url: str, statements: str) -> None:
    pg = await asyncpg.connect(database_url)
    await pg.execute(statements)
    await pg.close()


async def test_a_letter_is_listed_shown_and_replayed_once(
    api: httpx.AsyncClient, database_url: str
) -> None:
    assert (await api.get("/v1/dead-letters")).json() == {"dead_letters": [], "next_cursor": None}
    letter_id = await poisoned(api, database_url)
    shown = (await api.get(f"/v1/dead-letters/{letter_id}")).json()
    assert (shown["service"], shown["source"], shown["state"]) == ("scheduler", "rpc", "open")
    assert (shown["failures"], shown["whole"]) == (RPC_FAILURES_MAX, True)
    assert json.loads(shown["body"])["spec"]["title"] == "poison"
    for query, count in (({"state": "open", "source": "rpc"}, 1), ({"state": "replayed"}, 0)):
        listed = (await api.get("/v1/dead-letters", params=query)).json()["dead_letters"]
        assert len(listed) == count
    first = await api.post(f"/v1/dead-letters/{letter_id}/replay")
    assert (first.status_code, first.json()["repeated"]) == (200, False)
    again = await api.post(f"/v1/dead-letters/{letter_id}/replay")
    assert (again.status_code, again.json()["repeated"]) == (200, True)
    assert len((await api.get("/v1/tasks")).json()["tasks"]) == 1
    shown = (await api.get(f"/v1/dead-letters/{letter_id}")).json()
    assert (shown["state"], shown["decided_by"]) == ("replayed", "admin")


async def test_what_is_not_there_is_404_and_nobody_looks_without_a_token(
    api: httpx.AsyncClient,
) -> None:
    unknown = ids.new_dead_letter_id()
    for method, path in (("GET", ""), ("POST", "/replay"), ("POST", "/discard")):
        answer = await api.request(method, f"/v1/dead-letters/{unknown}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "dead-letter-unknown")
        answer = await api.request(method, f"/v1/dead-letters/x{path}")
        assert answer.status_code == 422
        answer = await api.request(
            method, f"/v1/dead-letters/{unknown}{path}", headers={"Authorization": "Bearer wht_x"}
        )
        assert answer.status_code == 401


async def test_letters_of_the_proof_store_stand_beside_them_page_by_page(
    api: httpx.AsyncClient, database_url: str
) -> None:
    await poisoned(api, database_url)
    await asyncio.to_thread(db.migrate, database_url, schema=SCHEMA, migrations=MIGRATIONS)
    await run_sql(
        database_url,
        """
        INSERT INTO proofs.dead_letter (dead_letter_id, source, sender, subject, digest, code,
                                        error, body, body_is_base64, whole, state, first_at)
        SELECT 'dlt_' || repeat(chr(96 + n), 24), 'ingest', 'rnr_a', 'wfhub.v1.ingest', n::text,
               'message-malformed', 'no JSON', 'AP8=', true, true, 'open',
               now() - make_interval(mins => n)
          FROM generate_series(1, 5) n
        """,
    )
    found, cursor = [], None
    while True:
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await api.get("/v1/dead-letters", params=params)).json()
        found += page["dead_letters"]
        if (cursor := page["next_cursor"]) is None:
            break
    assert [each["service"] for each in found] == ["scheduler", *["proof-store"] * 5]
    assert len({each["dead_letter_id"] for each in found}) == 6
    answer = await api.post(f"/v1/dead-letters/{found[1]['dead_letter_id']}/replay")
    assert (answer.status_code, answer.json()["code"]) == (503, "no-responders")


async def test_by_command(api: httpx.AsyncClient, database_url: str, tmp_path: Path) -> None:
    letter_id = await poisoned(api, database_url)

    async def cli(*arguments: str) -> tuple[int, str, str]:
        return await real_api.cli(api, tmp_path, "dead-letter", *arguments)

    code, out, _ = await cli("list")
    assert (code, out.split()[0]) == (0, letter_id)
    code, out, _ = await cli("show", letter_id)
    assert code == 0
    assert '"title":"poison"' in out
    code, out, _ = await cli("discard", letter_id)
    assert (code, out) == (0, f"{letter_id}: discarded\n")
    code, out, _ = await cli("replay", letter_id, "--json")
    assert (code, json.loads(out)["state"], json.loads(out)["repeated"]) == (0, "discarded", True)
    assert (await cli("list"))[:2] == (0, "")
    assert len((await cli("list", "--all"))[1].splitlines()) == 1
    code, _, err = await cli("show", ids.new_dead_letter_id())
    assert code == 1
    assert "there is no dead letter" in err
