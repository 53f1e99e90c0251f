"""Set-up: a task's `setup` commands on its base checkout, run once and kept as a layer.

The layer is found again by who asks (the project), what it stands on (repository and commit), what
was run, and what it was run in (toolchains, where it was let out to). One attempt makes it while
others with the same key wait; a set-up that failed is not kept, and the next one tries itself.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from wfhub_common.messages import Assignment, CommandResult

from wfhub_agent_runner import commands as shell
from wfhub_agent_runner.gitwork import setups
from wfhub_agent_runner.gitwork.workspaces import Layers, Lease, Workspaces
from wfhub_agent_runner.toolchains import Toolchains

NAME = "setup"  # of its layers, its log and its egress log


@dataclass(frozen=True)
class Done:
    """`lease` is on the layer unless a command failed or `cancelled`; then the last result says
    how. No results: it was there."""

    lease: Lease
    key: str
    results: tuple[CommandResult, ...] = ()
    cancelled: bool = False

    def described(self) -> dict[str, Any]:
        """For the proof."""
        made = self.lease.set_up
        return {
            "key": self.key,
            "reused": not self.results,
            "digest": f"sha256:{made.digest}" if made else "",
            "put_back": list(made.left) if made else [],
            "commands": [result.model_dump(mode="json") for result in self.results],
        }


class SetUps:
    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def on(
        self,
        lease: Lease,
        key: str,
        run: Callable[[Layers], Awaitable[tuple[CommandResult, ...]]],
        cancel: asyncio.Event,
    ) -> Done:
        """`run` is called when there is no such layer yet."""
        async with self._alone(f"{lease.base.mirror.name}/{key}", cancel) as mine:
            if not mine:
                return Done(lease, key, cancelled=True)
            if found := await self._workspaces.set_up(lease, key):
                return Done(found, key)
            layers = await self._workspaces.clean(lease, NAME, None)
            results = await run(layers)
            if not shell.passed(results[-1]):
                return Done(lease, key, results)
            return Done(await self._workspaces.keep_set_up(lease, key, layers), key, results)

    @asynccontextmanager
    async def _alone(self, name: str, cancel: asyncio.Event) -> AsyncIterator[bool]:
        """False: cancelled while another had it."""
        lock = self._making.setdefault(name, asyncio.Lock())
        waiting = [asyncio.create_task(lock.acquire()), asyncio.create_task(cancel.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            yield waiting[0].done()
        finally:
            if waiting[0].done():
                lock.release()
            for task in waiting:
                task.cancel()


def key_of(assigned: Assignment, lease: Lease, tools: Toolchains, environment: str) -> str:
    """`environment`: the sandbox's own kind, whatever else of it changes what commands find."""
    spec = assigned.spec
    return setups.key(
        [
            assigned.project_id,
            lease.base.commit,
            environment,
            *("toolchains", *sorted(tools.binds)),
            *("egress", *sorted({*spec.egress, *spec.setup_egress})),
            *("setup", *spec.setup),
        ]
    )
