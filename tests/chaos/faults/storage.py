"""Stores that forget, and a disk that is full."""

import asyncio
import os
import shutil
from pathlib import Path

from chaos.faults.parts import Proof
from chaos.field import Field, until
from chaos.nodes import NATS

LARGEST_FILLER = 1024 * 1024


async def stream_wiped(field: Field) -> Proof | None:
    """NATS comes back with an empty store."""
    before = await field.observer.stream_end()
    if before is None or not before[1]:
        return None
    field.cluster.kill(NATS)
    shutil.rmtree(field.cluster.layout.nats / "jetstream")
    await field.cluster.bring_back(NATS)
    return {"messages_lost": before[1]}


async def stream_truncated(field: Field) -> Proof | None:
    """NATS comes back with a store of some seconds ago: acknowledged events are gone from it."""
    store = field.cluster.layout.nats / "jetstream"
    kept = field.options.folder / "jetstream-earlier"
    at = await field.observer.stream_end()
    field.cluster.kill(NATS)
    shutil.rmtree(kept, ignore_errors=True)
    _copied(store, kept)
    await field.cluster.bring_back(NATS)
    await field.driver.burst(8, "truncated", 100)

    async def moved() -> tuple[int, int] | None:
        end = await field.observer.stream_end()
        return end if end and at and end[0] > at[0] else None

    end = await until(moved)
    field.cluster.kill(NATS)
    shutil.rmtree(store)
    kept.rename(store)
    await field.cluster.bring_back(NATS)
    return {"from": end[0], "to": at[0]} if end and at else None


async def disk_full(field: Field) -> Proof | None:
    """The proof-stores' disk is full for some seconds; no artifact is receipted meanwhile."""
    root = field.cluster.layout.proofs
    if not await asyncio.to_thread(os.path.ismount, root):
        return None
    field.driver.burst_soon(8, "full", 300)
    filler = root / "filler"
    _fill(filler)
    try:
        await asyncio.sleep(1.0)  # uploads that had their room are through
        stat = os.statvfs(root)
        _fill(filler)
        live = await field.observer.live_tasks()
        await asyncio.sleep(4.0)
    finally:
        filler.unlink()
    return {"free_bytes": stat.f_bavail * stat.f_frsize, "live_tasks": live} if live else None


def _copied(source: Path, target: Path) -> None:
    """With its owners."""
    shutil.copytree(source, target)
    for path in source.rglob("*"):
        stat = path.stat()
        os.chown(target / path.relative_to(source), stat.st_uid, stat.st_gid)
    stat = source.stat()
    os.chown(target, stat.st_uid, stat.st_gid)


def _fill(filler: Path) -> None:
    with filler.open("ab", buffering=0) as file:
        size = LARGEST_FILLER
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
