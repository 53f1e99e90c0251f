"""One installation on a real daemon for all tests of this folder, in the order they stand."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_lab import (
    TARGETS,
    Daemon,
    Site,
    build,
    check_tools,
    daemon,
    hand_on,
    import_base,
)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    check_tools()
    made = Path(tempfile.mkdtemp(prefix="wfhub-deploy-"))
    made.chmod(0o755)  # services of other uids pass through
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def builder(folder: Path) -> Iterator[Daemon]:
    """With the images of all services."""
    with daemon(folder / "builder", own_network=False) as running:
        import_base(running, folder)
        for target in TARGETS:
            build(running, target)
        yield running


@pytest.fixture(scope="session")
def site(folder: Path, builder: Daemon) -> Iterator[Site]:
    with daemon(folder / "host", own_network=True) as host:
        hand_on(builder, host, [f"workflow-hub/{target}:0.1.0" for target in TARGETS])
        made = Site(
            host,
            folder / "site",
            [
                "LLM_BASE_URL=http://host.docker.internal:12434/engines/llama.cpp/v1",
                "WEBHOOK_PRIVATE_HOSTS=host.docker.internal",
                "WEBHOOK_HTTP_HOSTS=host.docker.internal",
            ],
        )
        made.make()
        took_s = made.up()
        print(f"\ncompose up, from nothing to healthy: {took_s:.1f} s")
        yield made
        made.compose("down", "-v", "--timeout", "5")
