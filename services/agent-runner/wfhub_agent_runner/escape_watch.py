"""Whether the sandbox holds, asked through its real backend: at the start, and again and again.

Raises: SystemExit (at the start) when a probe gets through; later the runner takes no tasks.
"""

import asyncio

from wfhub_common.log import get_logger

from wfhub_agent_runner.claims import Claims
from wfhub_agent_runner.sandbox.port import Sandbox
from wfhub_agent_runner.sandbox.probes import probe

log = get_logger(__name__)


async def refuse_if_escapable(sandbox: Sandbox) -> None:
    escaped = [result for result in await probe(sandbox) if not result.held]
    if escaped:
        names = "; ".join(f"{result.name}: {result.detail}" for result in escaped)
        raise SystemExit(f"the sandbox does not hold, so no task is taken: {names}")


async def probe_again(every_s: float, sandbox: Sandbox, claims: Claims) -> None:
    while True:
        await asyncio.sleep(every_s)
        escaped = [result.name for result in await probe(sandbox) if not result.held]
        if escaped:
            log.error("the sandbox does not hold: taking no tasks", probes=escaped)
            claims.paused.set()
        else:
            claims.paused.clear()
