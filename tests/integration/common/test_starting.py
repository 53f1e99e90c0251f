"""Each service at a start that cannot be: it says what is wrong and what to do, and ends with 1."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import asyncpg
import gitrepos
import httpx
import own_ports
import pytest
import unprivileged
from databases import template
from sqlalchemy import text
from wfhub_admin import broker
from wfhub_common import db, httpauth, identities, ids, service_token, starting
from wfhub_common.errors import RetryLater
from wfhub_common.service import Stop
from wfhub_common.settings import BrokerSettings

CHAOS_CLOCK = Path(__file__).parents[2] / "chaos" / "clock"
MODULES = {
    "sched": "wfhub_scheduler",
    "proofs": "wfhub_proof_store",
    "gateway": "wfhub_llm_gateway",
    "api": "wfhub_api",
}
NO_WAIT = {"START_WAIT_S": "0"}


def migrations(schema: str) -> Path:
    (root,) = __import__(MODULES[schema]).__path__
    return Path(root) / "migrations"


@pytest.fixture(scope="module")
def database_template(postgres_server: str) -> str:
    def everything(url: str) -> None:
        for schema in MODULES:
            db.migrate(url, schema=schema, migrations=migrations(schema))

    return template(postgres_server, everything)


def environment(tmp_path: Path, database_url: str, nats_url: str) -> dict[str, str]:
    (tmp_path / "tokens.json").write_text("{}")
    return {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "NATS_URL": nats_url,
        "HTTP_LISTEN": "127.0.0.1:0",
        "PROOFS_ROOT": str(tmp_path / "proofs"),
        "SIGNING_KEY_FILE": str(tmp_path / "key.pem"),
        "SERVICE_TOKENS_FILE": str(tmp_path / "tokens.json"),
        "PROOF_PUBLIC_KEY_FILE": str(tmp_path / "key.pub"),
        "ADMIN_TOKEN_SHA256": "0" * 64,
        "GATEWAY_SPOOL": str(tmp_path / "spool"),
        "PROOFS_URL": "http://127.0.0.1:1",
        "LLM_BASE_URL": "http://127.0.0.1:1/v1",
    }


async def last_line(module: str, env: dict[str, str]) -> str:
    """Of a service that has to end by itself, with 1."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"{module}.main"),
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(90):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    told = errors.decode()
    assert process.returncode == 1, told
    assert "Traceback" not in told
    return told.strip().splitlines()[-1]


@pytest.mark.parametrize("schema", MODULES)
async def test_a_schema_older_than_the_code_ends_it(
    schema: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    pg = await asyncpg.connect(database_url)
    await pg.execute(f"UPDATE {schema}.migration SET version_num = '0000'")
    await pg.close()
    env = environment(tmp_path, database_url, nats_url) | NO_WAIT
    told = await last_line(MODULES[schema], env)
    newest = starting.newest_revision(migrations(schema))
    assert told.startswith(
        f"the schema {schema} is at 0000, but this version needs {newest}: run `"
    )


@pytest.mark.parametrize("schema", MODULES)
async def test_a_clock_that_is_not_the_databases_ends_it(
    schema: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, database_url, nats_url) | NO_WAIT
    told = await last_line(
        MODULES[schema], env | {"PYTHONPATH": str(CHAOS_CLOCK), "CHAOS_CLOCK_S": "-600"}
    )
    assert "s behind the database's: keep both by NTP" in told


@pytest.mark.parametrize("schema", MODULES)
async def test_a_role_that_the_database_refuses_ends_it(
    schema: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    refused = database_url.replace("postgres@", "nobody:wrong@")
    env = environment(tmp_path, refused, nats_url) | NO_WAIT
    told = await last_line(MODULES[schema], env)
    assert told.startswith("bad settings: DATABASE_URL: the database refuses")
    assert "wrong" not in told


async def test_a_database_that_does_not_exist_ends_it(
    database_url: str, nats_url: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, f"{database_url}x", nats_url) | NO_WAIT
    told = await last_line("wfhub_scheduler", env)
    assert told.startswith("bad settings: DATABASE_URL")
    assert "does not exist" in told


@pytest.fixture
async def strict_nats(tmp_path: Path) -> AsyncIterator[str]:
    """A server that knows our users, with other passwords."""
    port = own_ports.free_port()
    users = dict.fromkeys(identities.SERVICES, "theirs")
    (tmp_path / "nats.conf").write_text(
        broker.configuration(listen=f"127.0.0.1:{port}", store=tmp_path / "js", passwords=users)
    )
    server = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [Path(sys.executable).parent / "nats-server", "-c", tmp_path / "nats.conf"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.02)
    yield f"nats://127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.mark.parametrize(
    ("schema", "user"),
    [("sched", "scheduler"), ("proofs", "proof-store"), ("gateway", "gateway"), ("api", "api")],
)
async def test_a_password_that_nats_refuses_ends_it(
    schema: str, user: str, database_url: str, strict_nats: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, database_url, strict_nats)
    told = await last_line(MODULES[schema], env | {"NATS_USER": user, "NATS_PASSWORD": "ours"})
    assert told.startswith("bad settings: NATS_PASSWORD: ")


@pytest.mark.parametrize(
    ("module", "variable"),
    [("wfhub_proof_store", "PROOFS_ROOT"), ("wfhub_llm_gateway", "GATEWAY_SPOOL")],
)
async def test_a_folder_that_cannot_be_written_ends_it(
    module: str, variable: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    env = environment(tmp_path, database_url, nats_url)
    told = await last_line(module, env | {variable: str(tmp_path / "file" / "in")})
    assert told.startswith(f"bad settings: {variable}: cannot write to ")


@pytest.mark.parametrize(
    ("module", "variable"),
    [
        ("wfhub_proof_store", "SERVICE_TOKENS_FILE"),
        ("wfhub_proof_store", "SIGNING_KEY_FILE"),
        ("wfhub_api", "WEBHOOK_CA_FILE"),
        ("wfhub_llm_gateway", "LLM_CONFIG"),
        ("wfhub_llm_gateway", "LLM_PRICES"),
        ("wfhub_scheduler", "PROOF_PUBLIC_KEY_FILE"),
    ],
)
async def test_a_file_that_is_something_else_ends_it(
    module: str, variable: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("[1]\n")
    env = environment(tmp_path, database_url, nats_url)
    told = await last_line(module, env | {variable: str(tmp_path / "file")})
    assert told.startswith(f"bad settings: {variable}: ")


@pytest.mark.parametrize(
    ("schema", "variable"),
    [*((schema, "METRICS_LISTEN") for schema in MODULES), ("api", "HTTP_LISTEN")],
)
async def test_an_address_that_cannot_be_had_ends_it(
    schema: str, variable: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, database_url, nats_url)
    told = await last_line(MODULES[schema], env | {variable: "192.0.2.1:9464"})
    assert told.startswith("cannot listen on 192.0.2.1:9464: ")
    assert told.endswith(f"choose another with {variable}")


async def test_a_folder_for_the_sign_of_life_that_cannot_be_written_ends_it(
    database_url: str, nats_url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    env = environment(tmp_path, database_url, nats_url)
    told = await last_line("wfhub_scheduler", env | {"READY_FILE": str(tmp_path / "file" / "ok")})
    assert told.startswith("bad settings: READY_FILE: cannot write to ")


@pytest.mark.parametrize("schema", MODULES)
async def test_a_secret_that_is_given_twice_ends_it(
    schema: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text("p")
    env = environment(tmp_path, database_url, nats_url)
    twice = {"NATS_PASSWORD": "p", "NATS_PASSWORD_FILE": str(tmp_path / "password")}
    told = await last_line(MODULES[schema], env | {"NATS_USER": "u"} | twice)
    assert told.startswith("bad settings: NATS_PASSWORD and NATS_PASSWORD_FILE: set one of them")


@pytest.fixture
async def proof_store(database_url: str, nats_url: str, tmp_path: Path) -> AsyncIterator[str]:
    """A real one, whose only senders are `known` and the API."""
    port = own_ports.free_port()
    (tmp_path / "store").mkdir()
    env = environment(tmp_path / "store", database_url, nats_url)
    accepted = {
        "known": httpauth.token_sha256("wst_known"),
        "api": httpauth.token_sha256("wst_api"),
    }
    (tmp_path / "store" / "tokens.json").write_text(json.dumps(accepted))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wfhub_proof_store.main"),
        env=env | {"HTTP_LISTEN": f"127.0.0.1:{port}"},
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    async with asyncio.timeout(60), httpx.AsyncClient() as http:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"{url}/healthz")).is_success:
                    break
            await asyncio.sleep(0.05)
    yield url
    process.kill()
    await process.wait()


REFUSED = "bad settings: SERVICE_TOKEN: the proof-store at PROOFS_URL refuses it: give this service"


@pytest.mark.parametrize("token", ["", "wst_wrong"])
@pytest.mark.parametrize("module", ["wfhub_api", "wfhub_llm_gateway"])
async def test_a_token_that_the_proof_store_refuses_ends_it(
    module: str, token: str, proof_store: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, database_url, nats_url) | NO_WAIT
    told = await last_line(module, env | {"PROOFS_URL": proof_store, "SERVICE_TOKEN": token})
    assert told.startswith(REFUSED)
    assert "wst_" not in told


@pytest.mark.parametrize(
    ("module", "token", "said"),
    [
        ("wfhub_api", "wst_known", "it is the one of known, and this is api: give each service"),
        ("wfhub_llm_gateway", "wst_api", "it is the one of api, and this is gateway: give each"),
    ],
    ids=["api", "gateway"],
)
async def test_a_token_of_another_service_ends_it(
    module: str,
    token: str,
    said: str,
    proof_store: str,
    database_url: str,
    nats_url: str,
    tmp_path: Path,
) -> None:
    env = environment(tmp_path, database_url, nats_url) | NO_WAIT
    told = await last_line(module, env | {"PROOFS_URL": proof_store, "SERVICE_TOKEN": token})
    assert told.startswith(f"bad settings: SERVICE_TOKEN: {said}")
    assert "wst_" not in told


@pytest.mark.parametrize(
    ("token", "said"),
    [("wst_wrong", "the proof-store at PROOFS_URL refuses"), ("wst_api", "it is the one of api")],
    ids=["wrong", "another's"],
)
async def test_a_runner_without_a_token_of_its_own_ends_before_it_takes_a_task(
    proof_store: str, nats_url: str, token: str, said: str
) -> None:
    with gitrepos.shared_folder() as folder:
        home = folder / "home"
        home.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(home, unprivileged.uid(), unprivileged.uid())
        env = {
            "PATH": os.environ["PATH"],
            "RUNNER_ID": ids.new_runner_id(),
            "RUNNER_HOME": str(home),
            "RUNNER_UID": str(unprivileged.uid()),
            "NATS_URL": nats_url,
            "PROOFS_URL": proof_store,
            "GATEWAY_URL": "http://127.0.0.1:1",
            "SERVICE_TOKEN": token,
        }
        told = await last_line("wfhub_agent_runner", env | NO_WAIT)
        assert told.startswith(f"bad settings: SERVICE_TOKEN: {said}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("wst_wrong", REFUSED),
        ("wst_api", "bad settings: SERVICE_TOKEN: it is the one of api, and this is known"),
        ("wst_known", "takes our SERVICE_TOKEN"),
    ],
    ids=["wrong", "another's", "own"],
)
async def test_doctor_asks_the_proof_store_as_a_runner_would(
    proof_store: str, token: str, says: str
) -> None:
    doctor = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).parent / "wfhub", "doctor"),
        env=os.environ | {"PROOFS_URL": proof_store, "SERVICE_TOKEN": token, "RUNNER_ID": "known"},
        stdout=subprocess.PIPE,
    )
    told, _ = await doctor.communicate()
    assert doctor.returncode == (0 if token == "wst_known" else 1)
    assert f"proof-store {proof_store}\n            {says}" in told.decode()
    assert "no sandbox works" not in told.decode()


@pytest.mark.timeout(300)
async def test_doctor_beside_a_runner_that_was_handed_its_token_does_not_call_it_refused(
    proof_store: str,
) -> None:
    """`docker compose exec agent-runner wfhub doctor`: its environment has no token."""
    env = {name: value for name, value in os.environ.items() if "SERVICE_TOKEN" not in name}
    doctor = await asyncio.create_subprocess_exec(
        *(Path(sys.executable).parent / "wfhub", "doctor"),
        env={**env, "PROOFS_URL": proof_store},
        stdout=subprocess.PIPE,
    )
    told, _ = await doctor.communicate()
    assert doctor.returncode == 0, told.decode()
    assert REFUSED not in told.decode()


async def test_neither_a_token_that_is_taken_nor_a_store_that_is_not_there_ends_it(
    proof_store: str,
) -> None:
    stop = Stop()
    insist = partial(service_token.insist, sender="known", start_wait_s=0)
    await insist(proof_store, "wst_known", stop)
    nobody = f"http://127.0.0.1:{own_ports.free_port()}"
    await insist(nobody, "wst_known", stop, wait_for_it=False)
    assert not stop.event.is_set()
    asking = asyncio.create_task(insist(nobody, "x", stop))
    stop()
    await asking
    assert not stop.fatal


@pytest.mark.parametrize("schema", MODULES)
async def test_a_secret_in_a_file_that_is_no_text_ends_it(
    schema: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    env = environment(tmp_path, database_url, nats_url)
    more = {"NATS_USER": "u", "NATS_PASSWORD_FILE": str(tmp_path / "binary")}
    told = await last_line(MODULES[schema], env | more)
    assert told == f"bad settings: NATS_PASSWORD_FILE: {tmp_path / 'binary'} is no text in UTF-8"


async def test_a_socket_that_was_not_handed_over_ends_it(
    database_url: str, nats_url: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, database_url, nats_url)
    told = await last_line("wfhub_api", env | {"HTTP_LISTEN": "fd:99"})
    assert told.startswith("bad settings: HTTP_LISTEN: fd:99 is no socket")


@pytest.mark.parametrize("schema", MODULES)
async def test_an_option_of_the_database_that_the_driver_does_not_know_ends_it(
    schema: str, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    env = environment(tmp_path, f"{database_url}?secret-option=1", nats_url)
    told = await last_line(MODULES[schema], env)
    assert told.startswith("bad settings: DATABASE_URL: of options behind its '?' only")
    assert "secret" not in told


async def test_the_database_is_reached_by_tls_or_not_as_its_url_says(database_url: str) -> None:
    """libpq's word, which pg_dump and migrations take as it is."""
    engine = db.make_engine(f"{database_url}?sslmode=disable", application="test")
    async with db.transaction(engine) as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar() == 1
    await engine.dispose()
    engine = db.make_engine(f"{database_url}?sslmode=require", application="test")
    with pytest.raises(RetryLater, match="SSL"):
        async with db.transaction(engine):
            pass
    await engine.dispose()


def test_another_users_folder_is_said_with_the_uid_that_it_should_have(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()

    async def tried() -> str:
        try:
            starting.writable(Path("/usr/wfhub"), "RUNNER_HOME")
        except SystemExit as e:
            return str(e)
        return ""

    told = unprivileged.run(tmp_path / "home", tried)
    assert told.startswith("bad settings: RUNNER_HOME: cannot write to /usr/wfhub: ")
    assert f"let it belong to uid {unprivileged.uid()}" in told


def test_a_clock_is_judged_by_how_far_it_is_off() -> None:
    theirs = datetime.now(UTC) - timedelta(hours=1)
    assert "3600 s ahead of the scheduler's" in starting.apart(theirs, 60.0, "the scheduler's")
    assert starting.apart(theirs, 4000.0, "the scheduler's") == ""
    assert starting.apart(None, 60.0, "an older scheduler's") == ""


@pytest.mark.parametrize("one", ["nats_user", "nats_password"])
def test_half_of_a_broker_identity_is_refused(one: str) -> None:
    with pytest.raises(SystemExit, match="NATS_USER and NATS_PASSWORD: set both"):
        BrokerSettings.from_env({one.upper(): "x"})


def test_files_of_migrations_are_named_by_their_revisions() -> None:
    for schema in MODULES:
        for file in migrations(schema).glob("versions/[0-9]*.py"):
            assert f'revision = "{file.name.partition("_")[0]}"' in file.read_text()
