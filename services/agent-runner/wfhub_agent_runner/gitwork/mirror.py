"""The mirror: a bare repository of the runner's own, one per source, holding base commits only.

It is shallow: each base commit with its whole tree, no history (`refs/wfhub/base/<commit>` marks a
commit as complete). What attempts make never enters it, so that one attempt's work is not in
another's reach. Its config is fixed text; it is never opened through dulwich's Repo.
Shape: RUNNER_HOME/mirrors/<first 32 hex of sha256(identity)>/{HEAD,config,objects,refs,shallow}.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID, valid_hexsha
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import packs, walk

CONFIG = b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"


@dataclass(frozen=True)
class Mirror:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def objects(self) -> Path:
        return self.path / "objects"

    def commits(self) -> list[str]:
        """Complete base commits, newest first."""
        marks = [m for m in self._marks.iterdir() if valid_hexsha(os.fsencode(m.name))]
        return [m.name for m in sorted(marks, key=lambda m: m.stat().st_mtime_ns, reverse=True)]

    def has(self, commit: str) -> bool:
        return (self._marks / commit).exists()

    @contextmanager
    def store(self) -> Iterator[DiskObjectStore]:
        store = DiskObjectStore(self.objects)
        try:
            yield store
        finally:
            store.close()

    def tree_of(self, commit: str) -> str:
        with self.store() as store:
            tree: bytes = walk.commit(store, ObjectID(commit.encode())).tree
        return tree.decode()

    def take(self, commit: str, pack: Path) -> None:
        """Import a fetched pack (every object is hashed again) and mark its commit as complete."""
        oid = ObjectID(commit.encode())
        with self.store() as store:
            try:
                with pack.open("rb") as f:
                    packs.ingest(f, store)
            except packs.DAMAGED as e:
                raise Rejected("repo-corrupt", f"what was fetched is damaged: {e}") from e
            walk.commit(store, oid)
        self._mark(oid)

    def _mark(self, commit: ObjectID) -> None:
        shallow = self.path / "shallow"
        known = set(shallow.read_bytes().split()) if shallow.exists() else set()
        _replace(shallow, b"\n".join(sorted(known | {commit})) + b"\n")
        _replace(self._marks / commit.decode(), commit + b"\n")

    @property
    def _marks(self) -> Path:
        return self.path / "refs" / "wfhub" / "base"


def mirror_name(identity: str) -> str:
    return hashlib.sha256(os.fsencode(identity)).hexdigest()[:32]


def open_mirror(home: Path, identity: str) -> Mirror:
    """The mirror of that repository (location.identity), made when it is not there."""
    mirror = Mirror(home / "mirrors" / mirror_name(identity))
    if not (mirror.path / "HEAD").exists():
        (mirror.path / "refs" / "wfhub" / "base").mkdir(parents=True, exist_ok=True)
        (mirror.path / "refs" / "heads").mkdir(exist_ok=True)
        (mirror.objects / "info").mkdir(parents=True, exist_ok=True)
        (mirror.objects / "pack").mkdir(exist_ok=True)
        (mirror.path / "config").write_bytes(CONFIG)
        _replace(mirror.path / "HEAD", b"ref: refs/heads/none\n")  # last: now it is a repository
    return mirror


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fresh.write_bytes(content)
    fresh.replace(path)
