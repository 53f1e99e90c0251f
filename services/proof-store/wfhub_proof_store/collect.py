"""RPC `receipts`: a runner waits until each of its artifacts has a receipt or a refusal.

A sender sees its own announcements only, whichever attempt it names. Who looks at the same time
shares a statement.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db
from wfhub_common.grouping import Grouped
from wfhub_common.messages import Receipts, ReceiptsOf

from wfhub_proof_store import artifacts
from wfhub_proof_store.arrivals import Arrivals
from wfhub_proof_store.artifacts import Wanted

POLL_S = 0.5  # another replica's receipts are seen this late at worst
LOOKS_AT_ONCE_MAX = 100  # questions in one statement


class Collector:
    def __init__(self, engine: AsyncEngine, arrivals: Arrivals) -> None:
        self._engine, self._arrivals = db.autocommitting(engine), arrivals
        self._settled = Grouped(self._look, max_items=LOOKS_AT_ONCE_MAX)

    async def receipts(self, sender: str, asked: ReceiptsOf) -> Receipts:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + asked.wait_s
        wanted = Wanted(asked.attempt_id, sender, asked.names)
        with self._arrivals.waiting(asked.attempt_id) as arrived:
            while True:
                arrived.clear()
                found = await self._settled(wanted)
                decided = {each.name for each in found.receipts} | found.refused.keys()
                left_s = deadline - loop.time()
                if decided >= set(asked.names) or left_s <= 0 or self._arrivals.closed:
                    return found
                with suppress(TimeoutError):
                    await asyncio.wait_for(arrived.wait(), min(left_s, POLL_S))

    async def _look(self, wanted: Sequence[Wanted]) -> list[Receipts]:
        async with db.transaction(self._engine) as connection:
            return await artifacts.settled(connection, wanted)
