"""Finished attempts: what each came to, on disk until the scheduler has heard of it.

A record `<home>/finished/<attempt>.json` is durable once the artifacts are in the spool: the
completion without its receipts, and the items. Then they are delivered and the completion is told.
A runner killed in between names the attempt when it registers (`Register.holds`) and hands it in:
an agent's finished run is not done again. A record goes when the scheduler has answered, or no
longer wants it. An item that the proof-store refuses, or a completion that the scheduler does, ends
the attempt as failed by that.
Raises: LeaseLost; Rejected when the scheduler will not hear of the attempt's failure either.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from wfhub_common import limits, messages
from wfhub_common.errors import LeaseLost, Rejected
from wfhub_common.log import get_logger
from wfhub_common.messages import AttemptState

from wfhub_agent_runner.delivery import Delivery
from wfhub_agent_runner.leases import Held
from wfhub_agent_runner.scheduler_link import SchedulerLink
from wfhub_agent_runner.spool import Item

log = get_logger(__name__)


@dataclass(frozen=True)
class Record:
    complete: messages.Complete
    items: tuple[Item, ...]


class Finished:
    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, record: Record) -> None:
        """Durably. Blocking: call it in a thread."""
        items = [{**asdict(item), "folder": str(item.folder)} for item in record.items]
        value = {"complete": record.complete.model_dump(mode="json"), "items": items}
        path = self._path(record.complete.attempt_id)
        fresh = path.with_suffix(".tmp")
        with fresh.open("w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def waiting(self) -> dict[str, Record]:
        """By attempt: what an earlier process left. A record that cannot be read is set aside, and
        its attempt is done again."""
        for stale in self._root.glob("*.tmp"):
            stale.unlink()
        found = {}
        for path in self._root.glob("*.json"):
            try:
                record = _read(path)
            except (ValueError, KeyError, TypeError) as e:
                log.error(
                    "record of a finished attempt set aside", path=str(path), why=str(e)[:500]
                )
                path.rename(path.with_suffix(".unreadable"))
            else:
                found[record.complete.attempt_id] = record
        return found

    def remove(self, attempt_id: str) -> None:
        for path in (self._path(attempt_id), self._path(attempt_id).with_suffix(".tmp")):
            path.unlink(missing_ok=True)

    def _path(self, attempt_id: str) -> Path:
        return self._root / f"{attempt_id}.json"


def _read(path: Path) -> Record:
    value = json.loads(path.read_text())
    items = [Item(**{**item, "folder": Path(item["folder"])}) for item in value["items"]]
    return Record(messages.Complete.model_validate(value["complete"]), tuple(items))


@dataclass(frozen=True)
class Told:
    """What the scheduler was told in the end, and what it answered."""

    complete: messages.Complete
    answer: messages.Completed


@dataclass(frozen=True)
class HandingIn:
    finished: Finished
    delivery: Delivery
    link: SchedulerLink

    async def hand_in(self, held: Held, record: Record) -> Told:
        """Artifacts, receipts, completion. A cancel that comes now is the scheduler's to weigh."""
        try:
            await asyncio.to_thread(self.finished.keep, record)
        except OSError as e:  # a full disk: only a restart at this very moment would do it again
            self.finished.remove(held.attempt_id)
            log.warning("no record of a finished attempt", attempt_id=held.attempt_id, why=str(e))
        return await self._told(held, record)

    async def again(self, held: Held, record: Record) -> None:
        """What an earlier process of this runner had finished."""
        attempt_id = held.attempt_id
        try:
            told = await self._told(held, record)
        except (LeaseLost, Rejected) as e:
            log.warning("finished attempt dropped", attempt_id=attempt_id, reason=e.message)
            self.finished.remove(attempt_id)
        else:
            log.info(
                "finished attempt handed in after a restart",
                attempt_id=attempt_id,
                outcome=told.complete.outcome.value,
                task_state=told.answer.task_state.value,
            )

    async def _told(self, held: Held, record: Record) -> Told:
        try:
            receipts, refusal = await self._delivered(held, record.items)
            complete = record.complete.model_copy(update={"receipts": receipts})
            if refusal is not None and complete.outcome is AttemptState.WON:
                complete = complete.model_copy(update=_failed(refusal))
            told = await self._completed(held, complete)
        except LeaseLost:
            if not held.stopped:  # else the next process hands it in
                self.finished.remove(held.attempt_id)
            raise
        self.finished.remove(held.attempt_id)
        return told

    async def _completed(self, held: Held, complete: messages.Complete) -> Told:
        """What the scheduler refuses ends as failed by that: left alone it would run out its
        lease, be lost, and be tried again for the same end."""
        try:
            return Told(complete, await self.link.complete(held, complete))
        except Rejected as e:
            log.error("completion refused", attempt_id=held.attempt_id, reason=e.message)
            plain = messages.Complete(
                attempt_id=held.attempt_id, outcome=AttemptState.FAILED, receipts=complete.receipts
            )
            failed = plain.model_copy(update=_failed(e))
            return Told(failed, await self.link.complete(held, failed))

    async def _delivered(
        self, held: Held, items: Sequence[Item]
    ) -> tuple[tuple[messages.Receipt, ...], Rejected | None]:
        delivering = asyncio.create_task(self.delivery.deliver_what_is_taken(items))
        dropped = asyncio.create_task(held.dropped.wait())
        try:
            await asyncio.wait({delivering, dropped}, return_when=asyncio.FIRST_COMPLETED)
            if not delivering.done():
                raise LeaseLost("lease-lost", "the lease was lost before the artifacts arrived")
            return delivering.result()
        finally:
            delivering.cancel()
            dropped.cancel()


def _failed(refusal: Rejected) -> dict[str, object]:
    return {
        "outcome": AttemptState.FAILED,
        "reason": refusal.code[:200],
        "message": refusal.message[: limits.MESSAGE_CHARS_MAX],
        "retryable": False,
    }


def held_again(attempt_id: str) -> Held:
    """Its lease ends soon; the first heartbeat renews it."""
    return Held(attempt_id, datetime.now(UTC))
