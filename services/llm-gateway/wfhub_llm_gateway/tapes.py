"""Cassettes of projects: files below LLM_CASSETTES that tasks record to, or replay.

    LLM_CASSETTES/<project>/<name>.jsonl       format: cassette.py

Names are slugs, so that no task reaches another project's files. A file that is replayed is read
again when it changed. Several gateways may record to one file, where their file system appends.
Raises: Rejected (409 `cassettes-off`, `cassette-unusable`).
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from wfhub_common.errors import Rejected
from wfhub_common.messages import TokenInfo

from wfhub_llm_gateway import cassette
from wfhub_llm_gateway.provider import Provider
from wfhub_llm_gateway.recorder import Recorder
from wfhub_llm_gateway.replay import ReplayProvider

SUFFIX = ".jsonl"
KEPT_MAX = 100  # cassettes in memory
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_Version = tuple[int, int, int]
T = TypeVar("T")


class Tapes:
    def __init__(self, folder: Path | None, *, recorded_from: str, secrets: Sequence[str]) -> None:
        self._folder, self._recorded_from = folder, recorded_from
        self._secrets = tuple(secrets)
        self._replays: OrderedDict[Path, tuple[_Version, ReplayProvider]] = OrderedDict()
        self._recorders: OrderedDict[Path, Recorder] = OrderedDict()

    async def of(self, info: TokenInfo) -> tuple[Provider | None, Recorder | None]:
        """Who answers in a model's place, and where answers are kept, for this token's attempt."""
        if not info.cassette_mode:
            return None, None
        path = self._path(info)
        if info.cassette_mode == "replay":
            return await asyncio.to_thread(self._replay, path), None
        return None, await asyncio.to_thread(self._record, path)

    def _path(self, info: TokenInfo) -> Path:
        if self._folder is None:
            raise Rejected(
                "cassettes-off",
                f"the task says to {info.cassette_mode} the cassette {info.cassette!r}, and this "
                "gateway has no folder for cassettes: set LLM_CASSETTES",
                status=409,
            )
        if not (_SLUG.match(info.project) and _SLUG.match(info.cassette)):
            raise _unusable(info.cassette, "it is no name of a cassette")
        return self._folder / info.project / (info.cassette + SUFFIX)

    def _replay(self, path: Path) -> ReplayProvider:
        try:
            found = path.stat()
            version = (found.st_ino, found.st_mtime_ns, found.st_size)
            known = self._replays.get(path)
            if known is None or known[0] != version:
                known = (version, ReplayProvider(cassette.load(path)))
            _remember(self._replays, path, known)
        except (OSError, cassette.CassetteError) as e:
            raise _unusable(path.name, f"{e}; record it with cassette mode `record`") from e
        return known[1]

    def _record(self, path: Path) -> Recorder:
        try:
            if path not in self._recorders:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                own = Recorder(path, recorded_from=self._recorded_from, secrets=self._secrets)
                _remember(self._recorders, path, own)
        except (OSError, cassette.CassetteError) as e:
            raise _unusable(path.name, str(e)) from e
        return self._recorders[path]

    def forget(self, attempt_id: str) -> None:
        for _, replay in self._replays.values():
            replay.forget(attempt_id)


def _remember(kept: OrderedDict[Path, T], path: Path, value: T) -> None:
    kept[path] = value
    kept.move_to_end(path)
    if len(kept) > KEPT_MAX:
        kept.popitem(last=False)


def _unusable(name: str, why: str) -> Rejected:
    return Rejected("cassette-unusable", f"the cassette {name!r}: {why}", status=409)
