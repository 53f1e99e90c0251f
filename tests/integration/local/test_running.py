"""A running stack: crashes are mended, secrets stay where they belong."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from wfhub_common.privileges import SERVICE_UIDS

from .conftest import Up, eventually, get

MODULES = {
    "scheduler": "wfhub_scheduler.main",
    "proof-store": "wfhub_proof_store.main",
    "gateway": "wfhub_llm_gateway.main",
    "api": "wfhub_api.main",
}
MARKERS = {
    **MODULES,
    "runner-1": "wfhub_agent_runner.main",
    "nats": "nats.conf",
    "postgres": "/postgres/data",
}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="uids are dropped only where one is root")

RUNNER_S_MAX = 30.0


def answers(url: str, token: str = "") -> int:
    """The status; 0 while the API itself is being started again."""
    try:
        return get(url, token)[0]
    except OSError:
        return 0


def token(up: Up) -> str:
    return (up.data / "admin-token").read_text().strip()


@pytest.mark.parametrize(
    "name", ["gateway", "proof-store", "api", "scheduler", "runner-1", "nats", "postgres"]
)
def test_a_killed_process_is_started_again(up: Up, name: str) -> None:
    marker = MARKERS[name]
    first = up.child(marker)
    first.send_signal(signal.SIGKILL)
    up.said(f"{name} was ended by SIGKILL; starting it again", within_s=10)
    assert eventually(lambda: up.child(marker).pid != first.pid)
    assert eventually(lambda: answers(f"{up.url}/readyz") == 200)
    assert eventually(lambda: answers(f"{up.url}/v1/projects", token(up)) == 200)


def secrets_of(up: Up) -> Iterator[str]:
    made = json.loads((up.data / "credentials.json").read_text())
    yield made["admin_token"]
    for kind in ("nats", "database", "tokens"):
        yield from made[kind].values()


def test_no_secret_is_in_an_argument_or_an_environment(up: Up) -> None:
    def shown(process: psutil.Process) -> tuple[str, str]:
        return str(process), " ".join(process.cmdline()) + json.dumps(process.environ())

    for process, seen in up.of_each(shown):
        assert not [secret for secret in secrets_of(up) if secret in seen], process


def test_a_provider_key_is_the_gateways_alone_and_the_rest_is_nobodys(up: Up) -> None:
    environments = up.of_each(lambda process: (process.pid, json.dumps(process.environ())))
    holders = {pid for pid, environment in environments if "canary-openai" in environment}
    assert holders == {up.child(MODULES["gateway"]).pid}
    assert not [pid for pid, environment in environments if "canary-aws" in environment]


def test_the_token_is_not_printed(up: Up) -> None:
    assert token(up) not in "\n".join(up.lines)


@as_root
def test_each_service_has_a_uid_of_its_own_and_no_capabilities(up: Up) -> None:
    for service, module in MODULES.items():
        child = up.child(module)
        assert set(child.uids()) == {SERVICE_UIDS[service]}
        status = Path(f"/proc/{child.pid}/status").read_text()
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
    assert set(up.child("/postgres/data").uids()) == {SERVICE_UIDS["postgres"]}
    assert set(up.child("nats.conf").uids()) == {SERVICE_UIDS["nats"]}
    deadline = time.monotonic() + RUNNER_S_MAX  # it may still be on its way there
    while SERVICE_UIDS["runner"] not in _uids_of_runners(up):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _uids_of_runners(up: Up) -> set[int]:
    seen = up.of_each(lambda process: (" ".join(process.cmdline()), process.uids().real))
    return {uid for words, uid in seen if "wfhub_agent_runner.main" in words}


@as_root
def test_a_services_secrets_are_readable_by_it_alone(up: Up) -> None:
    for service in MODULES:
        for file in (up.data / "secrets" / service).iterdir():
            found = file.stat()
            assert (found.st_uid, found.st_mode & 0o777) == (SERVICE_UIDS[service], 0o600)


async def test_a_role_of_one_service_cannot_touch_the_data_of_another(up: Up) -> None:
    url = (up.data / "secrets" / "gateway" / "database-url").read_text()
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM gateway.migration") == 1
        assert not await connection.fetchval(
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles"
            " WHERE rolname = current_user"
        )
        for statement in (
            "SELECT * FROM sched.migration",
            "SELECT * FROM proofs.migration",
            "CREATE SCHEMA mine",
            "CREATE TABLE public.mine (x int)",
            "COPY (SELECT 1) TO PROGRAM 'true'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_api_reads_the_schedulers_views_and_nothing_else_of_it(up: Up) -> None:
    url = (up.data / "secrets" / "api" / "database-url").read_text()
    connection = await asyncpg.connect(url)
    try:
        await connection.fetch("SELECT * FROM sched.api_task")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT * FROM sched.task")
    finally:
        await connection.close()


async def test_the_database_asks_for_a_password(up: Up) -> None:
    url = (up.data / "secrets" / "api" / "database-url").read_text()
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(url.replace(password, "wrong"))


def test_memory_is_counted(up: Up) -> None:
    """A bound on what an idle stack may grow to; bench/stack_up.py has the figure."""
    pss = 0
    for process in up.below():
        try:
            pss += process.memory_full_info().pss
        except psutil.Error:
            continue
    assert 0 < pss < 1024**3
