"""The API service's process: `wfhub-api [serve | migrate | token … | sealing …]` (USAGE)."""

from wfhub_common import light as light  # isort: split

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, log, metrics, sealed, service_token, starting, subjects, tracing
from wfhub_common.broker import make_broker
from wfhub_common.errors import RetryLater, WfhubError
from wfhub_common.sealed import Unopened
from wfhub_common.service import Stop, run, serve_http

from wfhub_api import sealing, tokens
from wfhub_api.settings import ApiSettings

PROGRAM = "wfhub-api"
SCHEMA = "api"
MIGRATIONS = Path(__file__).parent / "migrations"
USAGE = (
    "usage: wfhub-api [serve | migrate | token new NAME | token list | token revoke ID"
    " | sealing on | sealing off | sealing renew]"
)
logger = log.get_logger(__name__)


def main() -> None:
    arguments = sys.argv[1:] or ["serve"]
    settings = ApiSettings.from_env(os.environ)
    log.configure("api", level=settings.log_level, format_=settings.log_format)
    match arguments:
        case ["serve"]:
            run(lambda stop: serve(settings, stop))
        case ["migrate"]:
            db.migrate(settings.database_url, schema=SCHEMA, migrations=MIGRATIONS)
        case ["token", "new", name]:
            _with_engine(settings, lambda engine: _new_token(engine, name))
        case ["token", "list"]:
            _with_engine(settings, _list_tokens)
        case ["token", "revoke", token_id]:
            _with_engine(settings, lambda engine: tokens.revoke(engine, token_id))
        case ["sealing", "on" | "off" as state]:
            _with_engine(settings, lambda engine: _seal(engine, settings, on=state == "on"))
        case ["sealing", "renew"]:
            _with_engine(settings, lambda engine: _renew(engine, settings))
        case _:
            raise SystemExit(USAGE)


async def serve(settings: ApiSettings, stop: Stop) -> None:
    from wfhub_api.app import create_app  # FastAPI: only a serving process pays

    broker = make_broker(settings, name="api", on_closed=lambda: stop("nats connection closed"))
    engine = db.make_engine(settings.database_url, application=PROGRAM)
    traced = tracing.set_up("api", settings.otel_exporter_otlp_endpoint)
    app = create_app(settings, engine, broker, stop)
    # Served meanwhile: /readyz says what is missing.
    looking = asyncio.create_task(_look(engine, settings, stop))
    looking.add_done_callback(lambda task: _end_with(task, stop))
    proving = service_token.insist(
        *(settings.proofs_url, settings.service_token, stop),
        sender=subjects.API,
        start_wait_s=settings.start_wait_s,
    )
    asking = asyncio.create_task(proving)
    try:
        await asyncio.gather(
            serve_http(app, settings.http_listen, stop),
            metrics.serve(app.state.hub.metrics, settings.metrics_listen, stop),
        )
    finally:
        looking.cancel()
        asking.cancel()
        if traced is not None:
            await asyncio.to_thread(traced.close)


def _end_with(task: "asyncio.Task[None]", stop: Stop) -> None:
    """What nobody foresaw is not to be a service that never becomes ready and does not say why."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the database could not be looked at", exc_info=error)
        stop.fatally(f"the database could not be looked at: {error}")


async def _look(engine: AsyncEngine, settings: ApiSettings, stop: Stop) -> None:
    await starting.database(engine, settings, stop, PROGRAM, schema=SCHEMA, migrations=MIGRATIONS)
    while True:
        try:
            lost = await sealing.lost(engine, sealed.keys(settings.sealing_keys))
            is_on = await sealing.is_on(engine)
            break
        except RetryLater:
            await asyncio.sleep(starting.RETRY_S[-1])
    if lost:
        which, why = next(iter(lost.items()))
        stop.fatally(
            f"bad settings: SEALING_KEYS_FILE: secrets of {len(lost)} webhooks do not open with it;"
            f" of {which}: {why}: bring back the installation's own (a backup has it), or give"
            " these webhooks new secrets by `wfhub-api sealing renew` and `wfhub webhook rotate`"
        )
    elif not is_on:
        logger.warning(
            "webhooks' secrets stand in clear in the database: once every API process is of this"
            " version, run `wfhub-api sealing on` (docs/upgrading.md)"
        )


def _with_engine(settings: ApiSettings, work: Callable[[AsyncEngine], Awaitable[None]]) -> None:
    async def go() -> None:
        engine = db.make_engine(settings.database_url, application=PROGRAM)
        try:
            await work(engine)
        finally:
            await engine.dispose()

    try:
        asyncio.run(go())
    except WfhubError as e:
        raise SystemExit(str(e)) from e


async def _new_token(engine: AsyncEngine, name: str) -> None:
    token_id, token = await tokens.create(engine, name)
    print(f"{token_id}\n{token}")


async def _seal(engine: AsyncEngine, settings: ApiSettings, *, on: bool) -> None:
    keys = sealed.keys(settings.sealing_keys)
    if on and not keys.newest:
        raise SystemExit("bad settings: SEALING_KEYS_FILE: it is not set, or it has no key")
    try:
        count = await sealing.change(engine, keys, to=keys.newest if on else None)
    except Unopened as e:
        raise SystemExit(f"nothing was changed: {e}; start the API, and it says which") from e
    print(f"{count} webhooks, {f'sealed under key {keys.newest}' if on else 'in clear'}")


async def _renew(engine: AsyncEngine, settings: ApiSettings) -> None:
    renewed = await sealing.renew_lost(engine, sealed.keys(settings.sealing_keys))
    print(
        f"{len(renewed)} webhooks have secrets that nobody knows: rotate each", *renewed, sep="\n"
    )


async def _list_tokens(engine: AsyncEngine) -> None:
    for row in await tokens.every(engine):
        state = f"revoked {row.revoked_at:%Y-%m-%d %H:%M}" if row.revoked_at else "live"
        print(f"{row.token_id}  {row.created_at:%Y-%m-%d %H:%M}  {state}  {row.name}")


if __name__ == "__main__":
    main()
