"""History: what each client was told, one JSON line a thing, in the order it happened.

Line: {"t": s since the run began (monotonic), "wall": Unix s, "who", "op", "phase", …fields}.
phase: invoke | ok | fail | unknown for something asked; `note` for something seen. Lean runners
write files of their own on the same clock (CLOCK_MONOTONIC is the machine's), read in together.
A line is one unbuffered write, so a killed writer leaves at most one half line, which is skipped.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class History:
    def __init__(self, path: Path, *, began: float) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.began = began  # time.monotonic() of the run's start

    def now(self) -> float:
        return time.monotonic() - self.began

    def add(self, who: str, op: str, phase: str, **fields: Any) -> Record:
        at = {"t": round(self.now(), 4), "wall": round(time.time(), 3)}
        record = {**at, "who": who, "op": op, "phase": phase, **fields}
        os.write(self._file, json.dumps(record, default=str).encode() + b"\n")
        return record

    def note(self, who: str, op: str, **fields: Any) -> Record:
        return self.add(who, op, "note", **fields)


def read(*paths: Path) -> list[Record]:
    """All lines of all files, in time order."""
    records = [record for path in paths for record in _lines(path)]
    records.sort(key=lambda record: record["t"])
    return records


def _lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:  # half a line, of a writer that was killed
                continue
            if isinstance(record, dict) and "op" in record:
                yield record
