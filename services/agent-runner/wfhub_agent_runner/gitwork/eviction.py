"""Eviction: which checkouts, set-up layers and mirrors are removed, by age, disk budget and count.

The longest unused go first. A mirror goes only when nothing is left that was made from it, and not
while an attempt may be on its way from it to a checkout. Who uses what is the caller's to know.
Shape: below RUNNER_HOME trees/<m>/<commit>, setups/<m>/<key>, mirrors/<m>; the mtime of each is
when it was used last. Units: bytes, seconds.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from wfhub_agent_runner.gitwork import limits

FRESH = ".fresh-"  # how the names of what is being made, or is on its way out, begin


@dataclass(frozen=True)
class Budget:
    """Of all of it together. `free_bytes_min`: what is to stay free on the file system."""

    bytes_max: int = 20 * limits.GIB
    age_s: float = 14 * 86_400.0
    free_bytes_min: int = 1 * limits.GIB


@dataclass(frozen=True)
class Kept:
    path: Path
    bytes: int
    used_at: float  # Unix time

    @property
    def is_mirror(self) -> bool:
        return self.path.parent.name == "mirrors"


def kept(home: Path) -> list[Kept]:
    """The longest unused first."""
    trees = [_kept(path, _noted(path / "bytes")) for path in _complete(home.glob("trees/*/*"))]
    layers = [_kept(path, _layer_bytes(path)) for path in _complete(home.glob("setups/*/*"))]
    mirrors = [_kept(path, _mirror_bytes(path)) for path in _complete(home.glob("mirrors/*"))]
    return sorted((*trees, *layers, *mirrors), key=lambda one: one.used_at)


def evicted(
    found: Iterable[Kept],
    budget: Budget,
    *,
    now: float,
    free_bytes: int,
    remove: Callable[[Kept], bool],
) -> list[Kept]:
    """What `remove` took of `found` (longest unused first); it says False for what is in use."""
    left = list(found)
    excess = max(sum(one.bytes for one in left) - budget.bytes_max, 0)
    excess = max(excess, budget.free_bytes_min - free_bytes)
    made = [one for one in left if not one.is_mirror]
    surplus = made[: max(len(made) - limits.TREES_KEPT_MAX, 0)]
    gone = []
    for one in left:
        old = one.used_at < now - budget.age_s
        if (old or excess > 0 or one in surplus) and remove(one):
            gone.append(one)
            excess -= one.bytes
    return gone


def free_bytes(home: Path) -> int:
    at = os.statvfs(home)
    return at.f_bavail * at.f_frsize


def _complete(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if not path.name.startswith(FRESH)]


def _kept(path: Path, size: int) -> Kept:
    try:
        return Kept(path, size, path.stat().st_mtime)
    except FileNotFoundError:
        return Kept(path, 0, float("inf"))


def _noted(note: Path) -> int:
    try:
        return int(note.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def _layer_bytes(folder: Path) -> int:
    try:
        return int(json.loads((folder / "about").read_text())["bytes"])
    except FileNotFoundError:
        return 0


def _mirror_bytes(path: Path) -> int:
    total = 0
    for pack in path.glob("objects/pack/*"):
        try:
            total += pack.stat().st_size
        except FileNotFoundError:
            continue
    return total
