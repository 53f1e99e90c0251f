"""Workspaces: what the runner's orchestration calls, and the only door to this package.

    prepared = await workspaces.prepare(repo, base)      # fetch what is new, check out once
    lease = await workspaces.lease(prepared, attempt_id) # a writable layer on it
    …the agent runs in lease.layers and is dead…
    snapshot = await workspaces.snapshot(lease, about)   # None: nothing changed
    clean = await workspaces.clean(lease, "verify", snapshot)   # or None: the base
    lease = await workspaces.set_up(lease, key)                 # None: it is to be made first,
    lease = await workspaces.keep_set_up(lease, key, layers)    # in layers = clean(lease, …, None)
    await workspaces.release(lease)

Layers are for `bwrap --overlay-src` in the order given (the first is the bottom) and one
`--overlay upper work`. With `copies=True` (no overlay possible here) `Layers.copy` is a plain
writable folder instead. Cost: fetch and checkout that of what is new in the commit, once per
runner; lease, snapshot and clean checkout that of the changes.

Shape on disk, below RUNNER_HOME: mirrors/<m>, trees/<m>/<commit>/{tree,gitdir}, attempts/<id>/…,
setups/<m>/<key>; all but attempts/ are kept for who comes next, as `eviction` allows.
Raises: Rejected (bad input), RetryLater (repository out of reach).
"""

import asyncio
import fcntl
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

from dulwich.objects import ObjectID
from wfhub_common import ids
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.log import get_logger
from wfhub_common.messages import PublishOrder

from wfhub_agent_runner.gitwork import attempts, devcontainer, directory, eviction, setups
from wfhub_agent_runner.gitwork.attempts import BaseCheckout, Layers, Lease, Snapshot
from wfhub_agent_runner.gitwork.client import NOBODY, RepoAccess, Use
from wfhub_agent_runner.gitwork.commit import About
from wfhub_agent_runner.gitwork.eviction import Budget, Kept
from wfhub_agent_runner.gitwork.location import identity
from wfhub_agent_runner.gitwork.mirror import Mirror, mirror_name, open_mirror
from wfhub_agent_runner.gitwork.outcomes import PublishResult, PullRequest, Refused
from wfhub_agent_runner.removal import remove_tree

__all__ = ["About", "BaseCheckout", "Layers", "Lease", "Snapshot", "Workspaces"]

_THREADS = 8
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_READ_TRIES = 3  # of a plain folder that is changed while it is read
_MIRROR_GRACE_S = 600.0  # since its last use: long enough from `prepare` to `lease`
_PUBLISH_TRIES = 3  # each looks first: after an unknown outcome the next one finds out
T = TypeVar("T")

log = get_logger(__name__)


@dataclass
class _Used:
    """Checkouts and set-up layers that leases stand on, and one lock per mirror."""

    guard: threading.Lock
    counts: Counter[Path]
    mirrors: dict[str, threading.Lock]


def _changed(found: setups.SetUp) -> RetryLater:
    return RetryLater(
        "setup-changed",
        f"the set-up layer {found.folder} was changed since it was made; look for who writes there:"
        " the next attempt makes it anew",
    )


def take_home(home: Path) -> IO[str]:
    """For as long as it is open, which the kernel ends with the process. Nothing in a home may be
    removed before. Raises: Rejected (`runner-home-in-use`), OSError."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = (home / "gitwork.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        lock.close()
        raise Rejected(
            "runner-home-in-use",
            f"another runner works in {home}: give each its own",
        ) from e
    return lock


class Workspaces:
    def __init__(
        self,
        home: Path,
        access: RepoAccess,
        *,
        copies: bool = False,
        budget: Budget = Budget(),  # noqa: B008 - immutable
        home_lock: IO[str] | None = None,
    ) -> None:
        """`home_lock`: of `take_home`, where that had to be done before."""
        self._home, self._access, self._copies, self._budget = home, access, copies, budget
        self._used = _Used(threading.Lock(), Counter(), {})
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="gitwork")
        self._home_lock = home_lock

    async def reap(self) -> None:
        """Call once at start: take the home for this process, remove what a killed one left.
        Raises: Rejected (`runner-home-in-use`)."""
        await self._run(self._reap)

    async def prepare(self, repo: str, base: str | None, use: Use = NOBODY) -> BaseCheckout:
        return await self._run(self._prepare, repo, base, use)

    async def image_of(self, base: BaseCheckout) -> str:
        """What the repository's devcontainer.json asks for; empty: nothing."""
        return await self._run(self._image_of, base)

    async def lease(self, base: BaseCheckout, attempt_id: str) -> Lease:
        return await self._run(self._lease, base, ids.checked(attempt_id, "att"))

    async def set_up(self, lease: Lease, key: str) -> Lease | None:
        """The lease with the layer of that key below it, if it is kept here."""
        return await self._run(self._set_up, lease, key)

    async def keep_set_up(self, lease: Lease, key: str, made: Layers) -> Lease:
        """Call when the sandbox is dead: what was made in `made` is that layer from now on."""
        return await self._run(self._keep_set_up, lease, key, made.copy or made.upper)

    async def tidy(self) -> None:
        """Remove what is kept beyond the budget; `release` does so too."""
        await self._run(self._tidy)

    async def snapshot(self, lease: Lease, about: About) -> Snapshot | None:
        """Call when the sandbox is dead. None: the tree is the base's."""
        return await self._run(attempts.snapshot, lease, about)

    async def clean(self, lease: Lease, name: str, result: Snapshot | None) -> Layers:
        """Layers for a run on a clean checkout of the result, or of the base (None)."""
        return await self._run(self._clean, lease, name, result)

    async def release(self, lease: Lease) -> None:
        await self._run(self._release, lease)

    async def publish(
        self, repo: str, bundle: Path, order: PublishOrder, use: Use = NOBODY
    ) -> PublishResult:
        """Published, Already, Conflict and Refused are observed and final; RetryLater means the
        outcome is unknown and publishing again will tell."""
        return await self._run(self._publish, repo, bundle, order, use)

    async def pull_request(self, repo: str, wanted: dict[str, Any]) -> PullRequest:
        return await self._run(self._access.pull_request, repo, wanted)

    async def _run(self, do: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, do, *args)

    def _reap(self) -> None:
        self._home_lock = self._home_lock or take_home(self._home)
        remove_tree(self._home / "attempts")
        self._drop_caches_after_a_boot()
        patterns = ("trees/*/.fresh-*", "setups/*/.fresh-*", "mirrors/.fresh-*", "fetch-*.pack")
        for stale in (path for pattern in patterns for path in self._home.glob(pattern)):
            remove_tree(stale)
        for stale in self._home.glob("mirrors/*/objects/tmp_pack_*"):
            stale.unlink(missing_ok=True)

    def _drop_caches_after_a_boot(self) -> None:
        """What is kept is written without fsync: a machine that lost power may have kept the names
        and lost the content."""
        note, boot = self._home / "boot-id", _BOOT_ID.read_text()
        if not note.exists() or note.read_text() != boot:
            for name in ("trees", "setups", "mirrors"):
                remove_tree(self._home / name)
            note.write_text(boot)

    def _prepare(self, repo: str, base: str | None, use: Use) -> BaseCheckout:
        for _ in range(_READ_TRIES - 1):
            try:
                return self._prepare_once(repo, base, use)
            except RetryLater as e:
                if e.code != directory.CHANGED:
                    raise
        return self._prepare_once(repo, base, use)

    def _prepare_once(self, repo: str, base: str | None, use: Use) -> BaseCheckout:
        found = self._access.resolve(repo, base, use)
        with self._mirror(identity(repo, self._access.policy)) as mirror:
            if not mirror.has(found.commit):
                pack = self._home / f"fetch-{mirror.name}.pack"
                try:
                    self._access.fetch(repo, found.commit, mirror.commits(), pack, use)
                    mirror.take(found.commit, pack)
                finally:
                    pack.unlink(missing_ok=True)
            lower_dirs = attempts.check_out(self._home, mirror, found.commit, whole=self._copies)
        return BaseCheckout(
            repo, found.commit, mirror.tree_of(found.commit), found.ref, mirror, lower_dirs
        )

    def _image_of(self, base: BaseCheckout) -> str:
        with base.mirror.store() as store:
            return devcontainer.image_at(store, ObjectID(base.tree.encode()))

    @contextmanager
    def _mirror(self, of: str) -> Iterator[Mirror]:
        """That mirror, for as long as nobody else changes or removes it."""
        with self._mirror_lock(mirror_name(of)):
            mirror = open_mirror(self._home, of)
            os.utime(mirror.path)
            yield mirror

    def _mirror_lock(self, name: str) -> threading.Lock:
        with self._used.guard:
            return self._used.mirrors.setdefault(name, threading.Lock())

    def _lease(self, base: BaseCheckout, attempt_id: str) -> Lease:
        folder = attempts.base_folder(self._home, base.mirror, base.commit)
        with self._used.guard:
            self._used.counts[folder] += 1
        # Counted first: from here on it is not evicted; it may have been since it was prepared.
        with self._mirror_lock(base.mirror.name):
            lower_dirs = attempts.check_out(
                self._home, base.mirror, base.commit, whole=self._copies
            )
        made = replace(base, lower_dirs=lower_dirs)  # made anew, it may lie over another one
        return attempts.lease(self._home, made, attempt_id, copies=self._copies)

    def _set_up(self, lease: Lease, key: str) -> Lease | None:
        with self._used.guard:  # found and counted at once: from here on it is not evicted
            found = setups.find(self._home, lease.base.mirror.name, key)
            if found is None:
                return None
            self._used.counts[found.folder] += 1
        with self._counted(found.folder):
            if self._untouched(found):
                return attempts.with_set_up(lease, found)
        with self._used.guard:
            self._used.counts[found.folder] -= 1
        return None

    def _untouched(self, found: setups.SetUp) -> bool:
        """Else it is taken out of the way: what changed since it was made is under nobody's work.
        Raises: RetryLater while others stand on it."""
        if found.is_untouched():
            return True
        log.error("a kept set-up layer was changed, making it anew", folder=str(found.folder))
        with self._used.guard:
            if self._used.counts[found.folder] > 1:
                raise _changed(found)
            gone = found.folder.with_name(f"{eviction.FRESH}{secrets.token_hex(8)}")
            with suppress(FileNotFoundError):
                found.folder.rename(gone)
        remove_tree(gone)
        return False

    def _clean(self, lease: Lease, name: str, result: Snapshot | None) -> Layers:
        if lease.set_up is not None and not lease.set_up.is_untouched():
            raise _changed(lease.set_up)
        return attempts.clean(lease, name, result)

    def _keep_set_up(self, lease: Lease, key: str, upper: Path) -> Lease:
        folder = setups.folder(self._home, lease.base.mirror.name, key)
        with self._used.guard:  # counted first: it is not evicted the moment it is there
            self._used.counts[folder] += 1
        with self._counted(folder):
            kept = attempts.keep_set_up(lease, self._home, key, upper)
            return attempts.with_set_up(lease, kept)

    @contextmanager
    def _counted(self, folder: Path) -> Iterator[None]:
        """What fails leaves no use of `folder` behind."""
        try:
            yield
        except BaseException:
            with self._used.guard:
                self._used.counts[folder] -= 1
            raise

    def _release(self, lease: Lease) -> None:
        remove_tree(lease.folder)
        with self._used.guard:
            folder = attempts.base_folder(self._home, lease.base.mirror, lease.base.commit)
            self._used.counts[folder] -= 1
            if lease.set_up is not None:
                self._used.counts[lease.set_up.folder] -= 1
        self._tidy()

    def _tidy(self) -> None:
        moved: list[Path] = []

        def remove(one: Kept) -> bool:
            gone = self._moved_away(one)
            moved.extend(gone)
            return bool(gone)

        with self._used.guard:
            gone = eviction.evicted(
                eviction.kept(self._home),
                self._budget,
                now=time.time(),
                free_bytes=eviction.free_bytes(self._home),
                remove=remove,
            )
        for path in moved:
            remove_tree(path)
        if gone:
            freed = sum(one.bytes for one in gone)
            log.info("checkouts and mirrors evicted", count=len(gone), bytes=freed)

    def _moved_away(self, one: Kept) -> list[Path]:
        """Out of the way, unless it is used: who comes later makes it anew. Under the guard."""
        path = one.path
        if self._used.counts[path] > 0:
            return []
        mirror = path.name if one.is_mirror else path.parent.name
        making = self._used.mirrors.setdefault(mirror, threading.Lock())
        # Not while one is made, which may be laid over this one.
        if not making.acquire(blocking=False):
            return []
        try:
            if one.is_mirror and self._is_needed(one):
                return []
            if path.parent.parent.name == "trees" and attempts.carries_another(path):
                return []
            return [path.rename(path.with_name(f"{eviction.FRESH}{secrets.token_hex(8)}"))]
        except FileNotFoundError:
            return []
        finally:
            making.release()

    def _is_needed(self, mirror: Kept) -> bool:
        of_it = (self._home / kind / mirror.path.name for kind in ("trees", "setups"))
        made_from_it = [
            path
            for folder in of_it
            if folder.exists()
            for path in folder.iterdir()
            if not path.name.startswith(eviction.FRESH)
        ]
        return bool(made_from_it) or mirror.used_at > time.time() - _MIRROR_GRACE_S

    def _publish(self, repo: str, bundle: Path, order: PublishOrder, use: Use) -> PublishResult:
        unknown: RetryLater | None = None
        for _ in range(_PUBLISH_TRIES):
            try:
                return self._access.publish(
                    repo,
                    bundle,
                    commit=order.commit,
                    branch_ref=order.branch_ref,
                    marker_ref=order.marker_ref,
                    use=use,
                )
            except RetryLater as e:
                log.warning("publication unknown, looking again", repo=repo, reason=e.message)
                unknown = e
            except Rejected as e:
                return Refused(e.code, e.message)
        assert unknown is not None
        raise unknown
