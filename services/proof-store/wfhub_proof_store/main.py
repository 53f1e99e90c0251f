"""The proof-store's process: `wfhub-proof-store [serve | migrate]`.

HTTP answers from the first moment (`/readyz` says what is missing); messages are taken once the
database and the ingest stream are there. Ends with status 0 only when it was asked to stop.
"""

from wfhub_common import light as light  # isort: split

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from faststream.nats import NatsBroker
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import broker as rpc
from wfhub_common import db, httpauth, log, metrics, service, signing, starting, subjects, tracing
from wfhub_common.errors import RetryLater, WfhubError
from wfhub_common.messages import (
    DiscardDeadLetter,
    ReceiptsOf,
    ReplayDeadLetter,
    SealMany,
    SealProof,
)
from wfhub_common.service import Stop

from wfhub_proof_store import http, supply
from wfhub_proof_store.arrivals import Arrivals
from wfhub_proof_store.blobs import Blobs
from wfhub_proof_store.collect import Collector
from wfhub_proof_store.ingest import Ingest
from wfhub_proof_store.letters import Letters, forgetting
from wfhub_proof_store.metrics import Metrics
from wfhub_proof_store.seal import Sealer
from wfhub_proof_store.settings import MigrateSettings, ProofStoreSettings
from wfhub_proof_store.settlement import Settlement

PROGRAM = "wfhub-proof-store"
SCHEMA = "proofs"
MIGRATIONS = Path(__file__).parent / "migrations"
USAGE = "usage: wfhub-proof-store [serve | migrate]"
PING_TIMEOUT_S = 0.5
ASKED_TO_STOP = "signal "  # how service.run words it
# Waits for receipts, of all runners; whoever comes then waits until one of these is answered.
RECEIPTS_WAITING_MAX = 2048

R = TypeVar("R", bound=BaseModel)


def main() -> None:
    match sys.argv[1:] or ["serve"]:
        case ["serve"]:
            settings = ProofStoreSettings.from_env(os.environ)
            log.configure("proof-store", level=settings.log_level, format_=settings.log_format)
            service.run(lambda stop: serve(settings, stop))
        case ["migrate"]:
            url = MigrateSettings.from_env(os.environ).database_url
            db.migrate(url, schema=SCHEMA, migrations=MIGRATIONS)
        case _:
            raise SystemExit(USAGE)


async def serve(settings: ProofStoreSettings, stop: Stop) -> None:
    key, accepted, blobs = _opened(settings)
    engine = db.make_engine(settings.database_url, application=PROGRAM)
    broker = rpc.make_broker(
        settings, name=subjects.PROOF_STORE, on_closed=lambda: stop("nats connection closed")
    )
    traced = tracing.set_up("proof-store", settings.otel_exporter_otlp_endpoint)
    counts = Metrics()
    counts.observe(engine, blobs.root)
    arrivals = Arrivals()
    settlement = Settlement(
        engine=engine,
        blobs=blobs,
        key=key,
        arrivals=arrivals,
        blob_wait_s=settings.blob_wait_s,
    )
    letters = Letters(engine, settlement)
    collector = Collector(engine, arrivals)
    sealer = Sealer(engine=engine, broker=broker, blobs=blobs, key=key, metrics=counts)

    def answer(
        command: str,
        request_type: type[R],
        handler: Callable[[str, R], Awaitable[BaseModel]],
        *,
        workers: int = rpc.RPC_WORKERS_MAX,
    ) -> None:
        rpc.serve(
            broker,
            command,
            request_type,
            handler,
            queue=subjects.PROOF_STORE,
            workers=workers,
            on_failure=letters.count_request,
        )

    answer("receipts", ReceiptsOf, collector.receipts, workers=RECEIPTS_WAITING_MAX)
    answer("seal", SealProof, sealer.seal)
    answer("seal_many", SealMany, sealer.seal_many)
    answer("replay_ingest_letter", ReplayDeadLetter, letters.replay)
    answer("discard_ingest_letter", DiscardDeadLetter, letters.discard)
    ingest = Ingest(broker=broker, settlement=settlement, letters=letters, metrics=counts)
    ingest.subscribe(inbox_user=settings.nats_user or subjects.PROOF_STORE)
    consuming = asyncio.Event()

    async def ready() -> str:
        return await _missing(engine, broker, consuming)

    app = http.make_app(
        blobs=blobs,
        engine=engine,
        public_key=key.public_key(),
        accepted=accepted,
        ready=ready,
        metrics=counts,
    )

    async def consume() -> None:
        await starting.database(
            engine, settings, stop, PROGRAM, schema=SCHEMA, migrations=MIGRATIONS
        )
        await supply.database(engine, key)
        async with starting.entering(stop):
            js = (await broker.connect()).jetstream()
        created = await supply.ingest_stream(js)
        await broker.start()
        consuming.set()
        await supply.watch(js, created, stop)

    try:
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(consume()),
                tasks.create_task(forgetting(engine)),
            ]
            await asyncio.gather(
                service.serve_http(app, settings.http_listen, stop),
                metrics.serve(counts, settings.metrics_listen, stop),
            )
            for task in background:
                task.cancel()
    finally:
        arrivals.close()
        await rpc.stop(broker)
        await engine.dispose()
        blobs.close()
        if traced is not None:
            await asyncio.to_thread(traced.close)
    if not stop.why.startswith(ASKED_TO_STOP):
        raise SystemExit(f"proof-store ended: {stop.why}; start it again")


def _opened(settings: ProofStoreSettings) -> tuple[signing.PrivateKey, dict[str, str], Blobs]:
    try:
        key = signing.load_or_create_private_key(settings.signing_key_file)
    except (OSError, WfhubError) as e:
        raise SystemExit(f"bad settings: SIGNING_KEY_FILE: {e}") from e
    try:
        root = starting.writable(Path(settings.proofs_root), "PROOFS_ROOT")
        starting.warn_of_share(root, "PROOFS_ROOT")
        blobs = Blobs(root, bytes_max=settings.blob_bytes_max)
    except OSError as e:
        raise SystemExit(f"bad settings: PROOFS_ROOT: {e}") from e
    return key, httpauth.load_accepted(settings.service_tokens_file), blobs


async def _missing(engine: AsyncEngine, broker: NatsBroker, consuming: asyncio.Event) -> str:
    if not consuming.is_set():
        return "the database, the broker or the ingest stream is not there yet; see the log"
    if not await broker.ping(timeout=PING_TIMEOUT_S):
        return "the broker connection is down"
    with contextlib.suppress(RetryLater):
        async with db.transaction(engine) as connection:
            await connection.execute(text("SELECT 1"))
        return ""
    return "the database does not answer"


if __name__ == "__main__":
    main()
