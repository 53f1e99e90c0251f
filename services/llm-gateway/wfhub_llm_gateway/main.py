"""The gateway's process: `serve [--record FILE]` (the default) or `migrate`.

HTTP answers from the first moment: `/healthz` that the process is up, `/readyz` what is missing.
What is for a model is refused until the database and NATS were there once.
"""

from wfhub_common import light as light  # isort: split

import argparse
import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from faststream.nats import NatsBroker
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, log, metrics, service_token, starting, subjects, tracing
from wfhub_common.broker import make_broker
from wfhub_common.broker import stop as stop_broker
from wfhub_common.errors import RetryLater
from wfhub_common.service import Stop, run, serve_http

from wfhub_llm_gateway import cassette, cuts, rpc, urls
from wfhub_llm_gateway.app import make_app
from wfhub_llm_gateway.budgets import prices
from wfhub_llm_gateway.budgets.pricing import FREE_PROVIDERS, Pricing
from wfhub_llm_gateway.cuts import OpenStreams
from wfhub_llm_gateway.evidence import Evidence
from wfhub_llm_gateway.exchanger import Exchanger
from wfhub_llm_gateway.instances import Instances
from wfhub_llm_gateway.ledger import Ledger
from wfhub_llm_gateway.provider import Provider
from wfhub_llm_gateway.recorder import Recorder
from wfhub_llm_gateway.replay import ReplayProvider
from wfhub_llm_gateway.routing import config
from wfhub_llm_gateway.routing import providers as routing_providers
from wfhub_llm_gateway.routing.config import ConfigError, Routes
from wfhub_llm_gateway.routing.router import Router
from wfhub_llm_gateway.settings import GatewaySettings
from wfhub_llm_gateway.spans import Spans
from wfhub_llm_gateway.spool import Spool
from wfhub_llm_gateway.tapes import Tapes
from wfhub_llm_gateway.tokens import Tokens
from wfhub_llm_gateway.upstream import HttpProvider, SettingNames

PROGRAM = "wfhub-llm-gateway"
SCHEMA = "gateway"
MIGRATIONS = Path(__file__).parent / "migrations"
START_RETRY_S_MIN, START_RETRY_S_MAX = 0.1, 5.0
START_SAID_S = 5.0  # while one try lasts, the log says so that often
PING_TIMEOUT_S = 2.0
DRAIN_S = 3.0  # at a stop, open streams may end by themselves so long; serve_http waits for longer

logger = log.get_logger(__name__)


def make_router(settings: GatewaySettings, routes: Routes) -> tuple[Router, tuple[str, ...]]:
    """And the keys of its providers. Raises: SystemExit."""
    try:
        providers, keys = routing_providers.made(routes, settings, os.environ)
    except ConfigError as e:
        raise SystemExit(f"bad settings: LLM_CONFIG: {e}") from e
    return Router(routes, providers), keys


def make_routes(settings: GatewaySettings) -> Routes | None:
    """Raises: SystemExit."""
    if not settings.llm_config or settings.llm_provider == "replay":
        return None
    try:
        return config.load(Path(settings.llm_config))
    except ConfigError as e:
        raise SystemExit(f"bad settings: LLM_CONFIG: {e}") from e


def make_provider(settings: GatewaySettings) -> Provider:
    """Raises: SystemExit."""
    if settings.llm_provider == "replay":
        if not settings.llm_cassette:
            raise SystemExit("bad settings: LLM_CASSETTE: name the file that is to be replayed")
        try:
            return ReplayProvider(cassette.load(Path(settings.llm_cassette)))
        except cassette.CassetteError as e:
            raise SystemExit(f"bad settings: LLM_CASSETTE: {e}") from e
    base_url, dialect = settings.base_url(), settings.dialect()
    if base_url in urls.NEED_A_KEY and not settings.api_key():
        name = dialect.key_name
        logger.warning(f"neither LLM_BASE_URL nor {name} is set: no model will answer")
    return HttpProvider(
        settings.llm_provider,
        base_url,
        settings.api_key(),
        dialect,
        names=SettingNames(settings.url_name, dialect.key_name),
        first_byte_s=settings.upstream_first_byte_s,
        idle_s=settings.upstream_idle_s,
    )


def make_recorder(settings: GatewaySettings) -> Recorder | None:
    """Raises: SystemExit."""
    if not settings.llm_record:
        return None
    replayed = settings.llm_provider == "replay"
    source = f"replay of {settings.llm_cassette}" if replayed else urls.shown(settings.base_url())
    try:
        return Recorder(
            Path(settings.llm_record), recorded_from=source, secrets=(settings.api_key(),)
        )
    except (cassette.CassetteError, OSError) as e:
        raise SystemExit(f"bad settings: LLM_RECORD: {e}") from e


def make_pricing(settings: GatewaySettings, routes: Routes | None) -> Pricing:
    """Raises: SystemExit."""
    free = list(FREE_PROVIDERS)
    if routes is not None:
        local = ("ollama", "dmr")
        free = [n for n, each in routes.providers.items() if each.free or each.kind in local]
    try:
        own = Path(settings.llm_prices) if settings.llm_prices else None
        return Pricing(prices.load(own), free)
    except prices.PricesError as e:
        raise SystemExit(f"bad settings: LLM_PRICES: {e}") from e


async def serve(settings: GatewaySettings, stop: Stop) -> None:
    routes, keys = make_routes(settings), settings.keys()
    provider: Provider
    if routes is None:
        provider = make_provider(settings)
    else:
        provider, more_keys = make_router(settings, routes)
        keys += more_keys
    recorder, pricing = make_recorder(settings), make_pricing(settings, routes)
    traced = tracing.set_up("llm-gateway", settings.otel_exporter_otlp_endpoint)
    cassettes = None
    if settings.llm_cassettes:
        cassettes = starting.writable(Path(settings.llm_cassettes), "LLM_CASSETTES")
    tapes = Tapes(cassettes, recorded_from=provider.name, secrets=keys)
    folder = settings.gateway_spool or tempfile.mkdtemp(prefix="wfhub-gateway-")
    spool = Spool(
        starting.writable(Path(folder), "GATEWAY_SPOOL"),
        proofs_url=settings.proofs_url,
        service_token=settings.service_token,
    )
    engine = db.make_engine(settings.database_url, application=PROGRAM, settings=db.ONE_PLAN)
    broker = make_broker(settings, name=subjects.GATEWAY, on_closed=lambda: stop("nats closed"))
    instances = Instances(engine, spool.add, lease_s=settings.gateway_lease_s)
    ledger = Ledger(engine, instances.instance_id)
    tokens = Tokens(partial(rpc.introspect, broker), partial(rpc.introspect_many, broker))
    streams = OpenStreams()
    exchanger = Exchanger(
        provider,
        ledger,
        tokens,
        streams,
        spool,
        recorder,
        pricing,
        tapes,
        keys,
        spans=Spans(traced) if traced else None,
        unseen_tokens_per_s=settings.gateway_unseen_tokens_per_s,
    )
    rpc.register(broker, Evidence(engine), exchanger)
    background = [asyncio.create_task(spool.run()), asyncio.create_task(_drain(stop, exchanger))]
    if settings.proofs_url:
        proving = service_token.insist(
            *(settings.proofs_url, settings.service_token, stop),
            sender=subjects.GATEWAY,
            start_wait_s=settings.start_wait_s,
        )
        background.append(asyncio.create_task(proving))
    entered = asyncio.Event()

    async def enter() -> None:
        await starting.database(
            engine, settings, stop, PROGRAM, schema=SCHEMA, migrations=MIGRATIONS
        )
        await _until("nats", lambda: _connected(broker, stop))
        await _until("database", instances.renew)
        background.append(asyncio.create_task(instances.run()))
        background.append(asyncio.create_task(tokens.keep_fresh()))
        entered.set()
        logger.info("serving", provider=provider.name, listen=settings.http_listen)

    app = make_app(
        exchanger,
        default_model=settings.llm_model,
        entered=entered.is_set,
        ready=lambda: _missing(engine, broker, entered),
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            entering = tasks.create_task(enter())
            await asyncio.gather(
                serve_http(app, settings.http_listen, stop, http="httptools"),
                metrics.serve(exchanger.metrics, settings.metrics_listen, stop),
            )
            entering.cancel()
    finally:
        if exchanger.late:
            await asyncio.wait(exchanger.late, timeout=PING_TIMEOUT_S)
        for task in background:
            task.cancel()
        await instances.end()
        if traced is not None:
            await asyncio.to_thread(traced.close)
        await spool.close()
        await stop_broker(broker)
        await provider.close()
        await engine.dispose()


async def _drain(stop: Stop, exchanger: Exchanger) -> None:
    await stop.wait()
    await asyncio.sleep(DRAIN_S)
    exchanger.streams.cut_all(cuts.stopping())


async def _until(what: str, reach: Callable[[], Awaitable[Any]]) -> None:
    """Try until it is there."""
    pause_s = START_RETRY_S_MIN
    while True:
        trying = asyncio.ensure_future(reach())
        try:
            while not (await asyncio.wait({trying}, timeout=START_SAID_S))[0]:
                logger.warning(f"waiting for {what}")
        finally:
            trying.cancel()
        try:
            await trying
        except (RetryLater, OSError) as e:
            logger.warning(f"waiting for {what}", why=str(e), retry_s=pause_s)
        else:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, START_RETRY_S_MAX)


async def _connected(broker: NatsBroker, stop: Stop) -> None:
    async with starting.entering(stop):
        await broker.start()


async def _check_database(engine: AsyncEngine) -> None:
    try:
        async with db.transaction(engine) as connection:
            await connection.execute(text("SELECT 1 FROM gateway.exchange LIMIT 1"))
    except ProgrammingError as e:
        raise RetryLater(
            "not-migrated", "no table gateway.exchange: run `wfhub-llm-gateway migrate`"
        ) from e


async def _missing(engine: AsyncEngine, broker: NatsBroker, entered: asyncio.Event) -> str:
    missing = []
    try:
        await _check_database(engine)
    except RetryLater as e:
        missing.append(f"database: {e.message}\n")
    if not await broker.ping(timeout=PING_TIMEOUT_S):
        missing.append("nats: not connected\n")
    if not missing and not entered.is_set():
        missing.append("the start has not ended; see the log\n")
    return "".join(missing)


def main() -> None:
    parser = argparse.ArgumentParser(prog="wfhub-llm-gateway", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("serve", "migrate"), default="serve")
    parser.add_argument("--record", metavar="FILE", help="append exchanges here, as a cassette")
    arguments = parser.parse_args()
    settings = GatewaySettings.from_env(os.environ)
    log.configure("llm-gateway", level=settings.log_level, format_=settings.log_format)
    if arguments.command == "migrate":
        db.migrate(settings.database_url, schema=SCHEMA, migrations=MIGRATIONS)
        return
    if arguments.record:
        settings = settings.model_copy(update={"llm_record": arguments.record})
    with suppress(KeyboardInterrupt):
        run(partial(serve, settings))


if __name__ == "__main__":
    main()
