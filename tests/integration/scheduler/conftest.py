"""A real scheduler on a real Postgres and NATS; its neighbours are scheduler_hub.Hub."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import databases
import pytest
import scheduler_hub
from scheduler_hub import Hub
from wfhub_common import signing
from wfhub_scheduler import main
from wfhub_scheduler.settings import SchedulerSettings


@pytest.fixture(scope="session")
def database_template(postgres_server: str) -> str:
    return databases.template(postgres_server, main.migrate)


@pytest.fixture
async def settings(
    request: pytest.FixtureRequest, database_url: str, nats_url: str, tmp_path: Path
) -> SchedulerSettings:
    """`@pytest.mark.parametrize("settings", [{…}], indirect=True)` replaces some."""
    key_file = tmp_path / "proof.key"
    signing.load_or_create_private_key(key_file)
    values: dict[str, Any] = {
        "nats_url": nats_url,
        "database_url": database_url,
        "proof_public_key_file": str(signing.public_key_path(key_file)),
        "retry_base_s": 0.02,
    }
    more = getattr(request, "param", {})
    if "lease_ttl_s" in more:
        values["heartbeat_s"] = more["lease_ttl_s"] / 3
    return SchedulerSettings.model_validate({**values, **more})


@pytest.fixture
async def idle_hub(settings: SchedulerSettings) -> AsyncIterator[Hub]:
    """The neighbours, without a scheduler."""
    key = signing.load_private_key(settings.proof_public_key_file.removesuffix(".pub"))
    async with scheduler_hub.hub(settings, key) as made:
        yield made


@pytest.fixture
async def hub(idle_hub: Hub) -> AsyncIterator[Hub]:
    async with scheduler_hub.scheduler(idle_hub.settings):
        yield await scheduler_hub.answering(idle_hub)
