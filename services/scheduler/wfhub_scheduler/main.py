"""The scheduler's process: `wfhub-scheduler [serve | migrate]`.

Waits at start until Postgres is there and migrated and NATS answers; then answers commands,
sweeps, asks for proofs and takes its turn as the relay. Ends with status 0 only when asked to.
"""

from wfhub_common import light as light  # isort: split

import asyncio
import os
import sys
from pathlib import Path

from faststream.nats import NatsBroker
from wfhub_common import broker as rpc
from wfhub_common import db, log, metrics, service, starting, streams, subjects, tracing
from wfhub_common.service import Stop

from wfhub_scheduler import handlers
from wfhub_scheduler.complete import ReceiptCheck
from wfhub_scheduler.core import Core, every
from wfhub_scheduler.relay import Relay
from wfhub_scheduler.schedules.turns import SCHEDULES_POLL_S, Turns
from wfhub_scheduler.sealing import Sealing
from wfhub_scheduler.settings import MigrateSettings, SchedulerSettings
from wfhub_scheduler.sweeper import Sweeper
from wfhub_scheduler.timing import Timing
from wfhub_scheduler.workflows.advancing import WORKFLOWS_POLL_S, Advancing

PROGRAM = "wfhub-scheduler"
SCHEMA = "sched"
MIGRATIONS = Path(__file__).parent / "migrations"
USAGE = "usage: wfhub-scheduler [serve | migrate]"
ASKED_TO_STOP = "signal "  # how service.run words it
START_WAIT_S_MAX = 2.0
PUBLIC_KEY_HEAD = b"-----BEGIN PUBLIC KEY-----"

logger = log.get_logger(__name__)


def main() -> None:
    match sys.argv[1:] or ["serve"]:
        case ["serve"]:
            settings = SchedulerSettings.from_env(os.environ)
            log.configure("scheduler", level=settings.log_level, format_=settings.log_format)
            service.run(lambda stop: serve(settings, stop))
        case ["migrate"]:
            migrate(MigrateSettings.from_env(os.environ).database_url)
        case _:
            raise SystemExit(USAGE)


def migrate(database_url: str) -> None:
    db.migrate(database_url, schema=SCHEMA, migrations=MIGRATIONS)


async def serve(settings: SchedulerSettings, stop: Stop) -> None:
    _check_files(settings)
    engine = db.make_engine(settings.database_url, application=PROGRAM, settings=db.ONE_PLAN)
    broker = rpc.make_broker(
        settings, name=subjects.SCHEDULER, on_closed=lambda: stop("nats connection closed")
    )
    timing = Timing(
        settings.lease_ttl_s,
        settings.heartbeat_s,
        settings.retry_base_s,
        settings.stop_grace_s,
        settings.attempt_margin_s,
    )
    core = Core(engine, broker, timing, stream_replicas=settings.stream_replicas)
    core.metrics.observe(engine, lease_ttl_s=settings.lease_ttl_s)
    handlers.subscribe(core, ReceiptCheck(settings.proof_public_key_file))
    traced = tracing.set_up("scheduler", settings.otel_exporter_otlp_endpoint)
    watched = asyncio.create_task(metrics.serve(core.metrics, settings.metrics_listen, stop))
    working = asyncio.create_task(_work(core, settings, stop))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not stop.event.is_set():
            working.result()  # it ended by itself: its error is why
    finally:
        core.close()
        working.cancel()
        stopping.cancel()
        stop("scheduler ended by itself")  # nothing, where it was asked to
        await asyncio.gather(working, stopping, watched, return_exceptions=True)
        await rpc.stop(broker)
        await engine.dispose()
        if traced is not None:
            await asyncio.to_thread(traced.close)
    if not stop.why.startswith(ASKED_TO_STOP):
        raise SystemExit(f"scheduler ended: {stop.why}; start it again")


def _check_files(settings: SchedulerSettings) -> None:
    """Raises: SystemExit. The key may be there later; then, not something else."""
    key = Path(settings.proof_public_key_file)
    try:
        if key.exists() and not key.read_bytes().startswith(PUBLIC_KEY_HEAD):
            raise SystemExit(
                f"bad settings: PROOF_PUBLIC_KEY_FILE: {key} is no public key in PEM: it is the"
                " `.pub` beside the proof-store's signing key"
            )
    except OSError as e:
        raise SystemExit(
            f"bad settings: PROOF_PUBLIC_KEY_FILE: cannot read {key}: {e.strerror}"
        ) from e
    if settings.ready_file is not None:
        starting.writable(settings.ready_file.parent, "READY_FILE")


async def _work(core: Core, settings: SchedulerSettings, stop: Stop) -> None:
    await starting.database(
        core.engine, settings, stop, PROGRAM, schema=SCHEMA, migrations=MIGRATIONS
    )
    await _provision(core.broker, core.stream_replicas, stop)
    await core.broker.start()
    logger.info("scheduler ready")
    sweeper = Sweeper(core)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(service.beat(settings.ready_file))
        tasks.create_task(Relay(core).run())
        tasks.create_task(Sealing(core).run())
        counted = core.metrics.counted
        sweep = counted("sweep", sweeper.turn)
        tasks.create_task(every("sweep", core.sweeps, sweeper.period_s, sweep))
        advance = counted("advance", Advancing(core).turn)
        tasks.create_task(every("advance", core.workflows, WORKFLOWS_POLL_S, advance))
        # By the clock as well: nobody rings for an instant.
        fire = counted("fire", Turns(core).turn)
        tasks.create_task(every("fire", core.sweeps, SCHEDULES_POLL_S, fire))


async def _provision(broker: NatsBroker, replicas: int, stop: Stop) -> None:
    """nats-py tries to connect until it can; JetStream may come up a little after the port."""
    async with starting.entering(stop):
        js = (await broker.connect()).jetstream()
    while True:
        try:
            await streams.provision(js, replicas=replicas)
        except Exception as e:  # noqa: BLE001 - whatever it is, the answer is to try again
            logger.warning("waiting for JetStream", why=repr(e))
            await asyncio.sleep(START_WAIT_S_MAX)
        else:
            return


if __name__ == "__main__":
    main()
