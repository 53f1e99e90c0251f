"""What one attempt made, as objects over the mirror's: a store that writes few and whole files.

Added objects stay in memory until `flush`, or until they are OBJECTS_HELD_BYTES_MAX, and are then
one pack with its index. (Loose, each would be a file in a folder of its own, compressed once more
for the bundle: for a small change that took longer than everything else.) Trees that were read
stay in memory too: one snapshot reads the same few again and again.
Nobody adds to the mirror what an attempt could need, and only this store to its own folder, where
nothing is loose: so a miss is no reason to look for what is new there.
"""

from os import PathLike
from pathlib import Path
from typing import Any

from dulwich.object_store import BaseObjectStore, DiskObjectStore
from dulwich.objects import ObjectID, RawObjectID, ShaFile, Tree
from dulwich.pack import Pack

from wfhub_agent_runner.gitwork import limits, packs

Raw = tuple[int, bytes]  # type number, content


class _LookedAtOnce(DiskObjectStore):
    """Packs alone, each with its own index: neither has a file for several."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        super().__init__(folder)
        self._is_listed = False

    def _update_pack_cache(self) -> list[Pack]:
        if self._is_listed:
            return []
        self._is_listed = True
        found: list[Pack] = super()._update_pack_cache()
        return found

    def get_midx(self) -> None:
        return None


class AttemptObjects(_LookedAtOnce):
    """`folder` and `mirror` are object folders. Call `close`; what was not flushed is gone then."""

    def __init__(
        self, folder: Path, mirror: Path, held_bytes_max: int = limits.OBJECTS_HELD_BYTES_MAX
    ) -> None:
        super().__init__(folder)
        self._below = _LookedAtOnce(mirror)
        self._held: dict[Any, Raw] = {}
        self._held_bytes, self._held_bytes_max = 0, held_bytes_max
        self._trees: dict[Any, Raw] = {}

    @property
    def alternates(self) -> list[BaseObjectStore]:
        return [self._below]

    def close(self) -> None:
        super().close()
        self._below.close()

    def _get_loose_object(self, sha: ObjectID) -> None:
        return None

    def __contains__(self, sha: ObjectID) -> bool:
        return sha in self._held or sha in self._trees or super().__contains__(sha)

    def get_raw(self, name: RawObjectID | ObjectID) -> Raw:
        if (known := self._held.get(name) or self._trees.get(name)) is not None:
            return known
        found: Raw = super().get_raw(name)
        self._remember(name, found)
        return found

    def add_object(self, obj: ShaFile) -> None:
        raw = obj.type_num, obj.as_raw_string()
        self._held[obj.id] = raw
        self._held_bytes += len(raw[1])
        if self._held_bytes > self._held_bytes_max:
            self.flush()

    def flush(self) -> None:
        """What is held goes to disk."""
        if not self._held:
            return
        packs.write_with_index(Path(self.pack_dir), self, list(self._held))
        for name, raw in self._held.items():
            self._remember(name, raw)
        self._held.clear()
        self._held_bytes = 0
        self._is_listed = False

    def _remember(self, name: RawObjectID | ObjectID, raw: Raw) -> None:
        if (
            raw[0] == Tree.type_num
            and len(raw[1]) <= limits.TREE_BYTES_REMEMBERED_MAX
            and len(self._trees) < limits.TREES_REMEMBERED_MAX
        ):
            self._trees[name] = raw
