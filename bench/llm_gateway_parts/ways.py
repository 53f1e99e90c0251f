"""The ways to the upstream: directly, by the gateway, LiteLLM's proxy, a bare pass-through.

The gateway is the real process, with the local stack's Postgres (fsync on) and NATS; a stand-in for
the scheduler says that the bench's tokens are good. Attempts have a budget of tokens, so that each
exchange is reserved, charged and settled as in a task. LiteLLM runs as its documentation has it for
production, with one worker as the gateway has, a master key, no database and no log of requests:
it keeps less than the gateway does. All have one process each.
"""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from control_plane_parts import peer_runs
from control_plane_parts.processes import Child, Family, python, until
from control_plane_parts.servers import Nats, Postgres
from wfhub_common import db, ids
from wfhub_common.broker import make_broker, serve
from wfhub_common.httpauth import ATTEMPT_TOKEN_PREFIX, new_token, token_sha256
from wfhub_common.messages import Introspect, IntrospectMany, TokenInfo, TokenInfos
from wfhub_common.settings import BrokerSettings
from wfhub_llm_gateway import main as gateway_main
from wfhub_local import ports
from wfhub_local.services import answers_ready

from llm_gateway_parts.client import Way

PARTS = Path(__file__).parent
ATTEMPTS = 64  # of 1,200 exchanges and 32 open streams each at most
BUDGET_TOKENS = 10**9
MASTER_KEY = "sk-bench"


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def script(family: Family, name: str, *arguments: object) -> tuple[int, Child]:
    """Starts one of this folder's servers; its port."""
    port = ports.free_port()
    argv = [*python("x")[:1], PARTS / f"{name}.py", port, *arguments]
    child = family.start(name, argv)
    until(lambda: is_listening(port), f"{name} listens", child=child)
    return port, child


def memory_mb(child: Child) -> float:
    """Private memory of a process and its children."""
    process = psutil.Process(child.pid)
    all_ = [process, *process.children(recursive=True)]
    return sum(each.memory_full_info().uss for each in all_) / 2**20


@asynccontextmanager
async def gateway(family: Family, pg: Postgres, upstream: int) -> AsyncIterator[tuple[Way, Child]]:
    url = await asyncio.to_thread(pg.create, "gateway_bench")
    migrations = {"schema": gateway_main.SCHEMA, "migrations": gateway_main.MIGRATIONS}
    await asyncio.to_thread(lambda: db.migrate(url, **migrations))
    nats = await asyncio.to_thread(Nats, family, "nats")
    known: dict[str, TokenInfo] = {}
    tokens = [new_token(ATTEMPT_TOKEN_PREFIX) for _ in range(ATTEMPTS)]
    for token in tokens:
        known[token_sha256(token)] = TokenInfo(
            active=True,
            attempt_id=ids.new_attempt_id(),
            task_id=ids.new_task_id(),
            project_id=ids.new_project_id(),
            valid_until=datetime.now(UTC) + timedelta(hours=2),
            budget_tokens=BUDGET_TOKENS,
        )

    async def introspect(_sender: str, request: Introspect) -> TokenInfo:
        return known.get(request.token_sha256, TokenInfo(active=False))

    async def introspect_many(_sender: str, request: IntrospectMany) -> TokenInfos:
        digests = request.token_sha256s
        return TokenInfos(tokens=tuple(known.get(d, TokenInfo(active=False)) for d in digests))

    broker = make_broker(BrokerSettings(nats_url=nats.url), name="scheduler")
    serve(broker, "introspect", Introspect, introspect, queue="scheduler")
    serve(broker, "introspect_many", IntrospectMany, introspect_many, queue="scheduler")
    await broker.start()
    port = ports.free_port()
    env = {
        "HTTP_LISTEN": f"127.0.0.1:{port}",
        "DATABASE_URL": url,
        "NATS_URL": nats.url,
        "LLM_BASE_URL": f"http://127.0.0.1:{upstream}/v1",
        "GATEWAY_SPOOL": str(family.folder / "spool"),
        "LOG_LEVEL": "WARNING",
    }
    child = family.start("gateway", python("wfhub_llm_gateway.main"), env=env)
    await asyncio.to_thread(until, lambda: answers_ready(port), "the gateway is ready", child=child)
    try:
        yield Way("gateway", port, keys=tokens), child
    finally:
        await broker.stop()


def litellm(family: Family, upstream: int) -> tuple[Way, Child]:
    port = ports.free_port()
    config = {
        "model_list": [
            {
                "model_name": "*",
                "litellm_params": {
                    "model": "openai/*",
                    "api_base": f"http://127.0.0.1:{upstream}/v1",
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"master_key": MASTER_KEY, "disable_spend_logs": True},
        "litellm_settings": {"request_timeout": 600, "telemetry": False, "num_retries": 0},
    }
    file = family.folder / "litellm.json"  # JSON is YAML
    file.write_text(json.dumps(config))
    binary = peer_runs.python().parent / "litellm"
    argv = [binary, "--config", file, "--host", "127.0.0.1", "--port", port, "--num_workers", 1]
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "NO_DOCS": "True",
        "PYTHONPATH": "",
        "HOME": str(family.folder),
        "PATH": f"{binary.parent}:{os.environ.get('PATH', '')}",
    }
    child = family.start("litellm", argv, env=env)
    until(lambda: is_listening(port), "LiteLLM listens", child=child, timeout_s=180)
    return Way("litellm", port, keys=[MASTER_KEY]), child
