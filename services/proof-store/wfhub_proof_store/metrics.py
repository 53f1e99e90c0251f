"""Metrics of the proof-store; docs/metrics.md lists them."""

import os
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, metrics

PREFIX = "wfhub_proof_store_"

_FIGURES = text("""
SELECT (SELECT size FROM proofs.tree) AS leaves,
       (SELECT count(*) FROM proofs.dead_letter WHERE state = 'open') AS letters
""")


class Metrics(metrics.Metrics):
    def __init__(self) -> None:
        super().__init__(PREFIX)
        self._ingested = self.counter(
            "ingested", "Announcements of artifacts, by what was decided.", "outcome"
        )
        self._blobs = self.counter("blobs", "Uploads, by what came of them.", "outcome")
        self._bytes = self.counter("blob_bytes", "Bytes of new blobs.")
        self._checks = self.counter(
            "verifications", "Sets of receipts, and blobs, that were checked.", "what", "outcome"
        )
        self._seals = self.counter("seals", "Proofs that were asked for.", "outcome")
        self._seconds = self.histogram("seal_seconds", "From a question to its signed proof.")
        self._leaves = self.gauge("log_leaves", "Proofs in the log.")
        self._letters = self.gauge("dead_letters", "Dead letters that wait for a decision.")

    def ingested(self, outcome: str) -> None:
        """receipt | refused | not-yet | dropped | postponed | failed"""
        self._ingested.labels(outcome).inc()

    def stored(self, *, new: bool, size: int) -> None:
        self._blobs.labels("new" if new else "known").inc()
        if new:
            self._bytes.inc(size)

    def not_stored(self, outcome: str) -> None:
        """full | cut | refused"""
        self._blobs.labels(outcome).inc()

    def checked(self, what: str, *, good: bool) -> None:
        """`what`: receipt | blob"""
        self._checks.labels(what, "good" if good else "bad").inc()

    def sealed(self, outcome: str, seconds: float) -> None:
        """sealed | refused | later | failed"""
        self._seals.labels(outcome).inc()
        if outcome == "sealed":
            self._seconds.observe(seconds)

    def observe(self, engine: AsyncEngine, root: Path) -> None:
        """What is looked up at a scrape."""

        async def look() -> None:
            async with db.transaction(engine) as connection:
                found = (await connection.execute(_FIGURES)).one()
            self._leaves.set(found.leaves)
            self._letters.set(found.letters)

        self.look_up(look)
        self.watch("disk_free_bytes", "Free below PROOFS_ROOT.", lambda: _free(root))


def _free(root: Path) -> float:
    at = os.statvfs(root)
    return float(at.f_bavail * at.f_frsize)
