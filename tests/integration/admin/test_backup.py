"""`wfhub-admin backup` and `restore` as compose's container `backup` runs them: processes, with an
operator's database. (The server that is ours: tests/e2e/test_backup.py, tests/deploy/live.)"""

import asyncio
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from wfhub_admin import archive, database, folders
from wfhub_admin.settings import ProvisionSettings
from wfhub_agent_runner.sandbox.pods.bridge import passed
from wfhub_common import sealed
from wfhub_common.subjects import PROOF_STORE

BLOB = b"what an agent said\n"
HEX = hashlib.sha256(BLOB).hexdigest()
PLACE = Path("sha256") / HEX[:2] / HEX[2:4] / HEX
PASSPHRASE = "correct horse battery staple"
LATE_S = 3.0  # by then it has tried; if not, nothing is shown, and nothing fails
NOWHERE = "postgresql://postgres@127.0.0.1:9/none"


# Root without its rights over files of others, as on a share whose server squashes it.
SQUASHED = ("setpriv", "--bounding-set", "-chown,-dac_override,-dac_read_search,-fowner")
NO_OTHER = ("setpriv", "--bounding-set", "-setuid,-setgid,-dac_override,-dac_read_search")
PROOFS_UID = ProvisionSettings.from_env({}).uids()[PROOF_STORE]


def admin(
    command: str, file: Path, at: Path, url: str, *more: str, by: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """With the volumes below `at`."""
    proofs = (at / "proofs").resolve()
    words = [command, str(file), "--state", str(at / "state"), "--proofs", str(proofs)]
    return subprocess.run(
        [
            *(*by, sys.executable, "-m", "wfhub_admin.cli", *words, *more),
            *("--passphrase", str(file.parent / "passphrase")),
        ],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture
async def kept(database_url: str, tmp_path: Path) -> Path:
    """A backup of an installation in which there is something."""
    at = tmp_path / "first"
    await asyncio.to_thread(database.carry_out, database.external(database_url))
    pg = await asyncpg.connect(database_url)
    await pg.execute(
        "INSERT INTO sched.project (project_id, name, running_limit, weight)"
        " VALUES ('prj_kept', 'kept', 1, 1)"
    )
    await pg.close()
    (at / "state").mkdir(parents=True)
    folders.truth(at / "state", at / "secrets", runners=2)
    (at / "proofs" / PLACE).parent.mkdir(parents=True)
    (at / "proofs" / PLACE).write_bytes(BLOB)
    (tmp_path / "passphrase").write_text(f"{PASSPHRASE}\n")
    done = await asyncio.to_thread(admin, "backup", tmp_path / "hub.wfhub", at, database_url)
    assert done.returncode == 0, done.stderr
    return tmp_path / "hub.wfhub"


async def test_a_backup_waits_for_a_database_that_it_reaches_a_moment_later(
    kept: Path, tmp_path: Path, database_url: str
) -> None:
    """As a new pod, which the network's policies let through once they know its address."""
    to = urlsplit(database_url)
    assert to.hostname is not None
    with socket.socket() as shut:  # bound, and refusing until it listens
        shut.bind(("127.0.0.1", 0))
        late = f"{to.username}:{to.password}@127.0.0.1:{shut.getsockname()[1]}"
        url = to._replace(netloc=late).geturl()
        first = tmp_path / "first"
        running = asyncio.create_task(
            asyncio.to_thread(admin, "backup", tmp_path / "late.wfhub", first, url)
        )
        await asyncio.sleep(LATE_S)

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(to.hostname, to.port)
            try:
                await asyncio.gather(passed(reader, far_writer), passed(far_reader, writer))
            finally:
                far_writer.close()
                writer.close()

        async with await asyncio.start_server(pass_on, sock=shut):
            done = await running
    assert done.returncode == 0, done.stderr


@pytest.fixture
async def empty_database(postgres_server: str) -> str:
    name = f"restored_{secrets.token_hex(4)}"
    server = await asyncpg.connect(f"{postgres_server}/postgres")
    await server.execute(f"CREATE DATABASE {name}")
    await server.close()
    return f"{postgres_server}/{name}"


@pytest.mark.timeout(600)
async def test_keys_first_then_the_rest_into_empty_volumes(
    kept: Path, tmp_path: Path, empty_database: str
) -> None:
    at = tmp_path / "second"
    (at / "proofs").mkdir(parents=True)
    first = await asyncio.to_thread(admin, "restore", kept, at, NOWHERE, "--keys-only")
    assert first.returncode == 0, first.stderr  # no database is needed for them
    assert folders.kept(at / "state") == folders.kept(tmp_path / "first" / "state")
    assert [*(at / "proofs").iterdir()] == []
    # Before there is a Postgres to restore into, `secrets` runs, here with more runners.
    more = folders.truth(at / "state", at / "secrets", runners=5)
    assert len(more.credentials.runner_ids) == 5

    then = await asyncio.to_thread(admin, "restore", kept, at, empty_database)
    assert then.returncode == 0, then.stderr
    assert folders.kept(at / "state") == more
    assert (at / "proofs" / PLACE).read_bytes() == BLOB
    if os.geteuid() == 0:  # a volume is root's until it is given to its service
        given = (at / "proofs", at / "proofs" / PLACE)
        assert [path.stat().st_uid for path in given] == [PROOFS_UID, PROOFS_UID]
    pg = await asyncpg.connect(empty_database)
    assert await pg.fetchval("SELECT name FROM sched.project WHERE project_id = 'prj_kept'")
    await pg.close()

    others = tmp_path / "others"
    (others / "state").mkdir(parents=True)
    folders.truth(others / "state", others / "secrets", runners=1)
    refused = await asyncio.to_thread(admin, "restore", kept, others, NOWHERE, "--keys-only")
    assert refused.returncode != 0
    assert "another installation's credentials: use empty volumes" in refused.stderr


def restored(file: Path, at: Path, url: str) -> subprocess.CompletedProcess[str]:
    """As the chart's job does it: the keys were brought elsewhere."""
    plan = at / "plan.json"
    plan.parent.mkdir(exist_ok=True)
    plan.write_text(database.external(url).to_json())
    return admin("restore", file, at, url, "--plan", str(plan))


@pytest.mark.timeout(600)
async def test_a_restore_is_done_once_and_never_over_something(
    kept: Path, tmp_path: Path, empty_database: str, database_url: str
) -> None:
    at = tmp_path / "second"
    first = await asyncio.to_thread(restored, kept, at, empty_database)
    assert first.returncode == 0, first.stderr
    pg = await asyncpg.connect(empty_database)
    await pg.execute("UPDATE sched.project SET name = 'since' WHERE project_id = 'prj_kept'")
    again = await asyncio.to_thread(restored, kept, at, empty_database)
    assert again.returncode == 0, again.stderr
    assert "restored before" in again.stderr
    name = "SELECT name FROM sched.project WHERE project_id = 'prj_kept'"
    assert await pg.fetchval(name) == "since"
    await pg.close()

    refused = await asyncio.to_thread(restored, kept, tmp_path / "third", database_url)
    assert refused.returncode != 0
    assert "into an empty database only, and nothing was changed" in refused.stderr
    assert not (tmp_path / "third" / "proofs").exists()


@pytest.mark.timeout(600)
async def test_a_restore_that_was_broken_off_goes_on_and_nothing_is_migrated_before(
    kept: Path, tmp_path: Path, empty_database: str
) -> None:
    at = tmp_path / "second"
    assert (await asyncio.to_thread(restored, kept, at, empty_database)).returncode == 0
    pg = await asyncpg.connect(empty_database)
    # As it is when the process dies between two schemas.
    mark = await pg.fetchval("SELECT obj_description(to_regnamespace('sched'), 'pg_namespace')")
    await pg.execute(f"COMMENT ON SCHEMA sched IS '{mark.replace('done', 'begun')}'")
    await pg.execute("DROP SCHEMA rest CASCADE; DROP SCHEMA api CASCADE")
    with pytest.raises(SystemExit, match="run it again with the same backup"):
        await asyncio.to_thread(database.carry_out, database.external(empty_database))
    went_on = await asyncio.to_thread(restored, kept, at, empty_database)
    assert went_on.returncode == 0, went_on.stderr
    assert "restored before" not in went_on.stderr
    assert await pg.fetchval("SELECT count(*) FROM api.token") == 0
    assert await pg.fetchval("SELECT count(*) FROM rest.tasks") == 0
    assert await pg.fetchval("SELECT name FROM sched.project WHERE project_id = 'prj_kept'")
    await pg.close()
    await asyncio.to_thread(database.carry_out, database.external(empty_database))


@pytest.mark.timeout(600)
async def test_an_installation_without_blobs_is_kept_but_not_one_whose_blobs_are_elsewhere(
    kept: Path, tmp_path: Path, database_url: str, empty_database: str
) -> None:
    first, file = tmp_path / "first", tmp_path / "none.wfhub"
    (first / "proofs" / PLACE).unlink()
    done = await asyncio.to_thread(admin, "backup", file, first, database_url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["blobs"] == 0
    brought = await asyncio.to_thread(restored, file, tmp_path / "second", empty_database)
    assert brought.returncode == 0, brought.stderr

    pg = await asyncpg.connect(database_url)
    await pg.execute(
        "INSERT INTO proofs.artifact (attempt_id, name, digest, size, media_type, sender, receipt)"
        " VALUES ('att_1', 'log', $1, 1, 'text/plain', 'rnr_1', '{}')",
        f"sha256:{HEX}",
    )
    await pg.close()
    refused = await asyncio.to_thread(admin, "backup", tmp_path / "lost.wfhub", first, database_url)
    assert refused.returncode != 0
    assert "is it the proof-store's folder?" in refused.stderr


@pytest.mark.timeout(600)
async def test_what_is_sealed_is_not_kept_without_its_key_and_a_short_passphrase_not_at_all(
    kept: Path, tmp_path: Path, database_url: str
) -> None:
    first = tmp_path / "first"
    keys = sealed.keys(folders.kept(first / "state").sealing_keys)
    secret = keys.seal("whsec_canary", 1, of="api.webhook/whk_1")
    pg = await asyncpg.connect(database_url)
    await pg.execute(
        "INSERT INTO api.webhook (webhook_id, url, events, secret, created_by, body_sha256)"
        " VALUES ('whk_1', 'https://example.org', '{}', $1, 'admin', '')",
        secret,
    )
    await pg.close()
    done = await asyncio.to_thread(admin, "backup", tmp_path / "with.wfhub", first, database_url)
    assert done.returncode == 0, done.stderr
    assert keys == sealed.keys(
        archive.check(tmp_path / "with.wfhub", PASSPHRASE).truth.sealing_keys
    )
    (first / "state" / folders.SEALING_KEYS).unlink()
    lost = await asyncio.to_thread(admin, "backup", tmp_path / "lost.wfhub", first, database_url)
    assert lost.returncode == 1
    assert "sealed under key 1, which is not among" in lost.stderr

    (tmp_path / "passphrase").write_text("hunter2\n")
    short = await asyncio.to_thread(admin, "backup", tmp_path / "short.wfhub", first, NOWHERE)
    assert short.returncode == 1
    assert "at least" in short.stderr, "it is said before the database is asked for anything"


@pytest.fixture
def proofs_of_another() -> Iterator[Path]:
    """A folder that its owner alone may look into, and where others may pass to it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        (proofs := Path(name) / "proofs").mkdir(mode=0o700)
        os.chown(proofs, PROOFS_UID, PROOFS_UID)
        yield proofs


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can be nobody somewhere")
@pytest.mark.timeout(600)
async def test_proofs_on_a_share_where_root_is_nobody_are_restored_and_backed_up(
    kept: Path, tmp_path: Path, empty_database: str, proofs_of_another: Path
) -> None:
    at = tmp_path / "share"
    at.mkdir()
    (at / "proofs").symlink_to(proofs_of_another)
    keys = await asyncio.to_thread(admin, "restore", kept, at, NOWHERE, "--keys-only")
    assert keys.returncode == 0, keys.stderr
    then = await asyncio.to_thread(admin, "restore", kept, at, empty_database, by=SQUASHED)
    assert then.returncode == 0, then.stderr
    assert (proofs_of_another / PLACE).read_bytes() == BLOB
    owners = {os.stat(path).st_uid for path, *_ in os.walk(proofs_of_another)}
    assert owners == {PROOFS_UID}

    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "passphrase").write_text(f"{PASSPHRASE}\n")
    again = tmp_path / "again" / "hub.wfhub"
    refused = await asyncio.to_thread(admin, "backup", again, at, empty_database, by=NO_OTHER)
    assert refused.returncode != 0
    assert "run this as that uid" in refused.stderr
    made = await asyncio.to_thread(admin, "backup", again, at, empty_database, by=SQUASHED)
    assert made.returncode == 0, made.stderr
    assert archive.check(again, PASSPHRASE).blobs == 1
