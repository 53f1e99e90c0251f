"""The spool: artifacts on the runner's disk until the proof-store has signed for them.

An item is a folder `<home>/spool/<attempt>/<n>/` with `blob` and `item.json`, made durable
(fsync, rename) before `put` returns, and removed only once its receipt is here. So an outage
of proof-store or broker delays a completion and loses nothing, and what a killed runner left
is delivered by the next one.
Units: bytes, seconds.  Raises: Rejected (`artifact-too-large`), RetryLater (`spool-full`).
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from wfhub_common import limits
from wfhub_common.errors import Rejected, RetryLater, WfhubError
from wfhub_common.log import get_logger
from wfhub_common.subjects import AttemptSubject

SPOOL_BYTES_MAX = 20 * 1024**3
SPOOL_AGE_S_MAX = 7 * 86_400  # an item nobody took for a week belongs to a task long ended
_CHUNK_BYTES = 1024 * 1024

log = get_logger(__name__)


@dataclass(frozen=True)
class Item:
    """One artifact waiting: who it belongs to and where its bytes lie."""

    project_id: str
    task_id: str
    attempt_id: str
    name: str
    media_type: str
    digest: str
    size: int
    folder: Path

    @property
    def blob(self) -> Path:
        return self.folder / "blob"


class Spool:
    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(
        self,
        source: Path,
        *,
        project_id: str,
        task_id: str,
        attempt_id: str,
        name: str,
        media_type: str,
    ) -> Item:
        """Copy `source` in, durably. Blocking: call it in a thread."""
        size = source.stat().st_size
        if size > limits.BLOB_BYTES_MAX:
            raise Rejected(
                "artifact-too-large",
                f"artifact {name} has {size} bytes; the limit is {limits.BLOB_BYTES_MAX}",
            )
        if self.bytes_waiting() + size > SPOOL_BYTES_MAX:
            raise RetryLater(
                "spool-full",
                f"the spool holds {SPOOL_BYTES_MAX} bytes already: is the proof-store up?",
            )
        attempt_folder = self._root / attempt_id
        attempt_folder.mkdir(exist_ok=True, mode=0o700)
        staging = attempt_folder / f".{name.replace('/', '_')}.tmp"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(mode=0o700)
        try:
            digest = _copy_durably(source, staging / "blob")
            final = attempt_folder / hashlib.sha256(name.encode()).hexdigest()[:16]
            item = Item(
                project_id, task_id, attempt_id, name, media_type, digest, size, folder=final
            )
            record = {k: v for k, v in asdict(item).items() if k != "folder"}
            _write_durably(staging / "item.json", json.dumps(record).encode())
            shutil.rmtree(final, ignore_errors=True)
            staging.rename(final)
            _sync_folder(attempt_folder)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        return item

    def put_all(
        self, artifacts: Mapping[str, tuple[Path, str]], at: AttemptSubject
    ) -> tuple[tuple[Item, ...], Exception | None]:
        """By name, where each lies and its media type: the items that could be kept, and why the
        first that could not was not. Blocking."""
        kept: list[Item] = []
        error: Exception | None = None
        for name, (source, media_type) in artifacts.items():
            try:
                item = self.put(
                    source,
                    project_id=at.project_id,
                    task_id=at.task_id,
                    attempt_id=at.attempt_id,
                    name=name,
                    media_type=media_type,
                )
            except (WfhubError, OSError) as e:
                log.warning("artifact not kept", attempt_id=at.attempt_id, name=name, why=str(e))
                error = error or e
            else:
                kept.append(item)
        return tuple(kept), error

    def waiting(self) -> Iterator[Item]:
        """Every whole item on disk, oldest attempt first; half-made ones are removed."""
        for record in sorted(self._root.glob("*/*/item.json"), key=lambda p: p.stat().st_mtime):
            folder = record.parent
            if folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            yield Item(**json.loads(record.read_text()), folder=folder)

    def expired(self, item: Item, *, now_s: float | None = None) -> bool:
        age_s = (now_s or time.time()) - (item.folder / "item.json").stat().st_mtime
        return age_s > SPOOL_AGE_S_MAX

    def remove(self, item: Item) -> None:
        shutil.rmtree(item.folder, ignore_errors=True)
        try:
            item.folder.parent.rmdir()
        except OSError:
            return  # other items of the attempt are still there

    def bytes_waiting(self) -> int:
        return sum(p.stat().st_size for p in self._root.glob("*/*/blob"))


def _copy_durably(source: Path, target: Path) -> str:
    state = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            state.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return "sha256:" + state.hexdigest()


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as writer:
        writer.write(data)
        writer.flush()
        os.fsync(writer.fileno())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
