"""A runner makes itself known to the scheduler: at its start, and when it is not known any more."""

import asyncio
from importlib.metadata import version

from faststream.nats import NatsBroker
from wfhub_common import broker as rpc
from wfhub_common import messages, service
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.log import get_logger

from wfhub_agent_runner.leases import Leases
from wfhub_agent_runner.settings import RunnerSettings

REGISTER_RETRY_S = 0.5

log = get_logger(__name__)


async def register(
    settings: RunnerSettings,
    broker: NatsBroker,
    incarnation: str,
    stop: service.Stop,
    *,
    holds: tuple[str, ...] = (),
) -> messages.Registered | None:
    """Asks until it is answered; None: the runner stops. `holds`: attempts that ended here, whose
    end the scheduler may not know."""
    request = messages.Register(
        incarnation=incarnation,
        name=settings.runner_name,
        slots=settings.runner_slots,
        labels=settings.labels(),
        backend=settings.sandbox_backend,
        version=version("workflow-hub"),
        holds=holds,
        pool=settings.runner_pool,
    )
    told = ""
    while not stop.event.is_set():
        try:
            return await rpc.ask(
                broker, settings.runner_id, "register", request, messages.Registered
            )
        except (RetryLater, Rejected) as e:
            if e.code == "request-malformed" and request.pool is not None:
                request = request.model_copy(update={"pool": None})  # the version before knows none
                continue
            if e.code != told:
                log.info("not registered yet, asking on", error=e.code, reason=e.message)
                told = e.code
            await asyncio.sleep(REGISTER_RETRY_S)
    return None


async def again(
    settings: RunnerSettings,
    broker: NatsBroker,
    incarnation: str,
    leases: Leases,
    stop: service.Stop,
) -> None:
    """After a restored database the scheduler may not know this runner any more."""
    while True:
        await leases.unknown_here.wait()
        leases.unknown_here.clear()
        registered = await register(settings, broker, incarnation, stop)
        leases.takes_token_keys = registered is not None and registered.takes_token_keys
        await asyncio.sleep(REGISTER_RETRY_S)
