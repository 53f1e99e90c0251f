"""What faults have in common: their type, and how what was killed comes back.

Units: seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from chaos.field import Field, until

Proof = dict[str, Any]
Fault = Callable[[Field], Awaitable[Proof | None]]

DOWN_S = (0.3, 2.5)  # how long what was killed stays away


async def killed(field: Field, name: str) -> None:
    field.cluster.kill(name)
    await back(field, name)


async def back(field: Field, name: str) -> None:
    await asyncio.sleep(field.rng.uniform(*DOWN_S))
    await field.cluster.bring_back(name)


async def server_killed(field: Field, name: str) -> Proof | None:
    field.driver.burst_soon(12, "busy", 500)
    live = await until(field.observer.live_tasks)
    if not live:
        return None
    await killed(field, name)
    return {"live_tasks": live}
