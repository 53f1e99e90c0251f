"""The application: wiring of edge, routes and what they use.

Connecting to NATS goes on in the background: reads are served, and /readyz says what is missing,
while the broker is not there yet. The broker lives in the lifespan, not in a FastAPI plugin.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import nats.errors
from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from faststream.nats import NatsBroker
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.types import ASGIApp
from wfhub_common import broker as rpc
from wfhub_common import problems, starting
from wfhub_common.log import get_logger
from wfhub_common.service import Stop
from wfhub_common.tracing_http import Traced

from wfhub_api import edge, metrics, openapi, page_files, validation
from wfhub_api.hub import Hub
from wfhub_api.proof_store import ProofStore
from wfhub_api.routes import (
    batches,
    dead_letters,
    events,
    health,
    logs,
    operations,
    projects,
    proofs,
    schedules,
    tasks,
    tokens,
    webhooks,
    workflows,
)
from wfhub_api.settings import ApiSettings
from wfhub_api.wakeups import Wakeups

START_BACKOFF_S = (0.1, 5.0)  # first and longest pause between looks at what is not ready

log = get_logger(__name__)


class Api(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        # Outside of Starlette's own error middleware, so that its answers carry them too.
        stack = edge.SecurityHeaders(super().build_middleware_stack())
        return metrics.Counted(stack, self.state.hub.metrics)


def create_app(settings: ApiSettings, engine: AsyncEngine, broker: NatsBroker, stop: Stop) -> Api:
    hub = Hub(
        settings=settings,
        engine=engine,
        broker=broker,
        proof_store=ProofStore(settings.proofs_url, settings.service_token),
        wakeups=Wakeups(),
        stop=stop,
    )
    hub.wakeups.listen(broker)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        ready = asyncio.create_task(_start(hub))
        ready.add_done_callback(partial(_end_with, hub))
        beginning = [ready]
        if settings.webhooks_enabled:
            beginning.append(asyncio.create_task(_deliver(hub, ready)))
        yield
        for task in beginning:
            task.cancel()
        await asyncio.gather(*beginning, return_exceptions=True)
        await hub.webhooks.close()
        await rpc.stop(broker)
        await hub.proof_store.close()
        await engine.dispose()

    app = Api(
        title="Workflow Hub",
        version="1",
        description="Runs AI coding agents on git repositories; branches with signed proofs.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.hub = hub
    app.add_middleware(edge.BodyLimit)
    app.add_middleware(Traced)
    page = page_files.read()
    # Added last: runs first.
    app.add_middleware(edge.Authenticated, caller_of=hub.caller_of, also_open=page)
    problems.install(app)
    validation.install(app)
    openapi.install(app)
    token = [Security(HTTPBearer(auto_error=False, description="an API token, wht_…"))]
    app.include_router(health.router)
    for module in (
        projects,
        operations,
        tasks,
        batches,
        events,
        logs,
        proofs,
        dead_letters,
        schedules,
        workflows,
        webhooks,
        tokens,
    ):
        app.include_router(module.router, dependencies=token)
    app.router.routes.extend(page_files.routes(page))
    return app


async def _start(hub: Hub) -> None:
    """Connect the broker, and log what is not ready until everything is."""
    connecting = asyncio.create_task(_connect(hub))
    pause_s, longest_s = START_BACKOFF_S
    try:
        while reasons := await health.not_ready(hub):
            log.warning("not ready yet", **reasons)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)
        log.info("ready")
        await connecting
    finally:
        connecting.cancel()


def _end_with(hub: Hub, start: asyncio.Task[None]) -> None:
    """A start that broke off connects to nothing any more: the process would never be ready."""
    if not start.cancelled() and (error := start.exception()) is not None:
        log.error("the start broke off", exc_info=error)
        hub.stop.fatally(f"the start broke off: {error}")


async def _deliver(hub: Hub, ready: asyncio.Task[None]) -> None:
    """Not before all is ready: until then the start says what is missing."""
    await asyncio.wait([ready])
    if not ready.cancelled() and ready.exception() is None:
        await hub.webhooks.run()


async def _connect(hub: Hub) -> None:
    pause_s, longest_s = START_BACKOFF_S
    while True:
        try:
            async with starting.entering(hub.stop):
                await hub.broker.start()
        except (nats.errors.Error, OSError) as e:
            log.warning("cannot connect to nats", error=str(e))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)
        else:
            hub.broker_up.set()
            return
