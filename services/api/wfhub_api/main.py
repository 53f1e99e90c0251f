"""The API service's process: `wfhub-api [serve | migrate | token new NAME | list | revoke ID]`."""

from wfhub_common import light as light  # isort: split

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, log, metrics, starting, tracing
from wfhub_common.broker import make_broker
from wfhub_common.errors import WfhubError
from wfhub_common.service import Stop, run, serve_http

from wfhub_api import tokens
from wfhub_api.settings import ApiSettings

PROGRAM = "wfhub-api"
SCHEMA = "api"
MIGRATIONS = Path(__file__).parent / "migrations"
USAGE = "usage: wfhub-api [serve | migrate | token new NAME | token list | token revoke ID]"


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
        case _:
            raise SystemExit(USAGE)


async def serve(settings: ApiSettings, stop: Stop) -> None:
    from wfhub_api.app import create_app  # FastAPI: only a serving process pays

    broker = make_broker(settings, name="api", on_closed=lambda: stop("nats connection closed"))
    engine = db.make_engine(settings.database_url, application=PROGRAM)
    traced = tracing.set_up("api", settings.otel_exporter_otlp_endpoint)
    app = create_app(settings, engine, broker, stop)
    # Served meanwhile: /readyz says what is missing.
    looking = asyncio.create_task(
        starting.database(engine, settings, stop, PROGRAM, schema=SCHEMA, migrations=MIGRATIONS)
    )
    try:
        await asyncio.gather(
            serve_http(app, settings.http_listen, stop),
            metrics.serve(app.state.hub.metrics, settings.metrics_listen, stop),
        )
    finally:
        looking.cancel()
        if traced is not None:
            await asyncio.to_thread(traced.close)


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


async def _list_tokens(engine: AsyncEngine) -> None:
    for row in await tokens.every(engine):
        state = f"revoked {row.revoked_at:%Y-%m-%d %H:%M}" if row.revoked_at else "live"
        print(f"{row.token_id}  {row.created_at:%Y-%m-%d %H:%M}  {state}  {row.name}")


if __name__ == "__main__":
    main()
