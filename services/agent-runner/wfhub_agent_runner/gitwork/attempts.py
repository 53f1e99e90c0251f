"""Base checkouts, leases on them, snapshots of them: the blocking half of `workspaces`.

attempts/<attempt id>/
    objects/            the attempt's own objects, the mirror as their alternate
    <name>/{upper,work} a writable layer for each run (agent, verify, base)
    <name>/copy         instead, where overlays are not possible
    result/             the overlay layer that is the difference from base to result
    result.bundle, result.patch
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from dulwich.object_store import DiskObjectStore
from dulwich.objects import ObjectID
from wfhub_common import workspace_folders
from wfhub_common.limits import CHANGES_LISTED_MAX, CI_FILES_LISTED_MAX, TESTS_LISTED_MAX
from wfhub_common.messages import Change

from wfhub_agent_runner.gitwork import (
    bundle,
    changes,
    checkout,
    ci_changes,
    commit,
    gitdir,
    limits,
    patch,
    setups,
    walk,
)
from wfhub_agent_runner.gitwork.mirror import Mirror
from wfhub_agent_runner.gitwork.names import shown
from wfhub_agent_runner.gitwork.objects import AttemptObjects
from wfhub_agent_runner.gitwork.setups import SetUp
from wfhub_agent_runner.gitwork.test_files import is_test_file
from wfhub_agent_runner.removal import remove_tree

AGENT = "agent"  # the name of the layers the agent works in


@dataclass(frozen=True)
class BaseCheckout:
    """A commit, checked out read-only and shared by all attempts on it. `ref`: what it was asked
    by, resolved, or empty for an id. `lower_dirs`: bottom first."""

    repo: str
    commit: str
    tree: str
    ref: str
    mirror: Mirror
    lower_dirs: tuple[Path, ...]

    @property
    def kind(self) -> str:
        """git | mount | directory"""
        folder = workspace_folders.parse(self.repo)
        return folder.kind if folder else "git"


@dataclass(frozen=True)
class Layers:
    """What one sandbox mounts: lower dirs (bottom first) with upper and work; or `copy`, which has
    the lower dirs' files in it."""

    lower_dirs: tuple[Path, ...]
    upper: Path
    work: Path
    copy: Path | None = None


@dataclass(frozen=True)
class Lease:
    attempt_id: str
    base: BaseCheckout
    folder: Path
    layers: Layers  # the agent's
    copies: bool
    set_up: SetUp | None = None  # a layer over the base, below whatever runs

    @property
    def set_up_layers(self) -> tuple[Path, ...]:
        return (self.set_up.layer,) if self.set_up else ()


@dataclass(frozen=True)
class Snapshot:
    """The result of an attempt. `changes` lists at most CHANGES_LISTED_MAX of `changes_total`,
    `tests_changed` at most TESTS_LISTED_MAX, `ci_files` at most CI_FILES_LISTED_MAX of theirs;
    `ci_files_unclear`: why there may be others."""

    commit: str
    tree: str
    changes: tuple[Change, ...]
    changes_total: int
    tests_changed: tuple[str, ...]
    tests_changed_total: int
    ci_files: tuple[str, ...]
    ci_files_total: int
    ci_files_unclear: str
    bundle: Path
    patch: Path


def base_folder(home: Path, mirror: Mirror, oid: str) -> Path:
    return home / "trees" / mirror.name / oid


def check_out(home: Path, mirror: Mirror, oid: str, *, whole: bool = False) -> tuple[Path, ...]:
    """The tree and its throw-away .git, made once; the rename makes it complete or absent.
    A commit near one that is there is a layer over that one, unless `whole`."""
    folder = base_folder(home, mirror, oid)
    if not folder.exists():
        fresh = folder.with_name(f".fresh-{secrets.token_hex(8)}")
        fresh.mkdir(parents=True)
        fresh.chmod(0o755)
        try:
            with mirror.store() as store:
                base = ObjectID(oid.encode())
                if whole or not _layered(store, base, fresh):
                    _written_whole(store, base, fresh)
            try:
                fresh.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first
                    raise
        finally:
            remove_tree(fresh)
    with suppress(FileNotFoundError):  # evicted this moment; a lease makes it again
        os.utime(folder)
    return lower_dirs(folder)


def lower_dirs(folder: Path) -> tuple[Path, ...]:
    """Of a base checkout, bottom first."""
    under = below(folder)
    if under is None:
        return (folder / "tree", folder / "gitdir")
    return (*lower_dirs(under), folder / "delta")


def below(folder: Path) -> Path | None:
    """The checkout that this one is a layer over."""
    try:
        return folder.with_name((folder / "below").read_text())
    except FileNotFoundError:
        return None


def carries_another(folder: Path) -> bool:
    return any(below(other) == folder for other in folder.parent.iterdir())


def _written_whole(store: DiskObjectStore, base: ObjectID, fresh: Path) -> None:
    for part in ("tree", "gitdir"):
        (fresh / part).mkdir()
        (fresh / part).chmod(0o755)
    written = checkout.write_tree(store, walk.commit(store, base).tree, fresh / "tree")
    gitdir.write_base(store, base, written, fresh / "gitdir")
    _note_size(fresh, written)


def _note_size(folder: Path, written: checkout.Written) -> None:
    (folder / "bytes").write_text(str(written.disk))


def _layered(store: DiskObjectStore, commit: ObjectID, fresh: Path) -> bool:
    """Whether it could be made as a layer over the checkout that was used last."""
    under = _nearest(fresh.parent)
    if under is None or not checkout.can_write_deltas(fresh):
        return False
    base = ObjectID(under.name.encode())
    old, new = walk.commit(store, base).tree, walk.commit(store, commit).tree
    changed = sum(1 for _ in islice(walk.deltas(store, old, new), limits.LAYER_FILES_MAX + 1))
    if changed > limits.LAYER_FILES_MAX:
        return False
    delta = fresh / "delta"
    delta.mkdir()
    delta.chmod(0o755)
    written = checkout.write_delta(store, old, new, delta)
    gitdir.write_result(store, base, commit, written, below=lower_dirs(under)[-1], into=delta)
    gitdir.cut_history(commit, delta)
    (fresh / "below").write_text(under.name)
    _note_size(fresh, written)
    return True


def _nearest(folder: Path) -> Path | None:
    there = [path for path in folder.iterdir() if not path.name.startswith(".")]
    shallow = [path for path in there if len(lower_dirs(path)) < limits.LAYERS_MAX]
    return max(shallow, key=lambda path: path.stat().st_mtime_ns, default=None)


def lease(home: Path, base: BaseCheckout, attempt_id: str, *, copies: bool) -> Lease:
    folder = home / "attempts" / attempt_id
    remove_tree(folder)
    folder.mkdir(parents=True, mode=0o700)
    objects = folder / "objects"
    DiskObjectStore.init(objects).close()
    layers = _layers(folder / AGENT, base.lower_dirs, copies=copies)
    return Lease(attempt_id, base, folder, layers, copies)


def _layers(folder: Path, lower_dirs: tuple[Path, ...], *, copies: bool) -> Layers:
    remove_tree(folder)
    upper, work, copy = folder / "upper", folder / "work", folder / "copy"
    folder.mkdir()
    if not copies:
        upper.mkdir(mode=0o755)
        work.mkdir(mode=0o700)
        return Layers(lower_dirs, upper, work)
    for lower in lower_dirs:
        shutil.copytree(lower, copy, symlinks=True, dirs_exist_ok=True)
    return Layers(lower_dirs, upper, work, copy)


def with_set_up(lease: Lease, found: SetUp) -> Lease:
    """The same lease, its agent's layers anew over what was set up."""
    under = (*lease.base.lower_dirs, found.layer)
    layers = _layers(lease.folder / AGENT, under, copies=lease.copies)
    return replace(lease, set_up=found, layers=layers)


def keep_set_up(lease: Lease, home: Path, key: str, upper: Path) -> SetUp:
    with lease.base.mirror.store() as store:
        tree = ObjectID(lease.base.tree.encode())
        return setups.keep(
            home, lease.base.mirror.name, key, upper, store=store, tree=tree, whole=lease.copies
        )


@contextmanager
def _store(lease: Lease) -> Iterator[AttemptObjects]:
    store = AttemptObjects(lease.folder / "objects", lease.base.mirror.objects)
    try:
        yield store
    finally:
        store.close()


def snapshot(lease: Lease, about: commit.About) -> Snapshot | None:
    base, base_tree = ObjectID(lease.base.commit.encode()), ObjectID(lease.base.tree.encode())
    with _store(lease) as store:
        if lease.layers.copy:
            for layer in lease.set_up_layers:
                setups.take_out(layer, lease.layers.copy)
            tree = changes.read(store, base_tree, lease.layers.copy, whole=True)
        else:
            tree = changes.read(store, base_tree, lease.layers.upper)
        if tree == base_tree:
            return None
        made = commit.build(tree, base, about)
        store.add_object(made)
        store.flush()
        bundle_path, patch_path = lease.folder / "result.bundle", lease.folder / "result.patch"
        with bundle_path.open("wb") as f:
            # Whoever publishes into a plain folder has no other store with the base in it.
            alone = lease.base.kind == workspace_folders.DIRECTORY
            bundle.write(f, store, base=base, commit=made.id, ref=about.branch_ref, alone=alone)
        patch_path.write_bytes(patch.text(store, base_tree, tree))
        deltas = list(walk.deltas(store, base_tree, tree))
        ci_files = ci_changes.changed(store, base_tree, tree, deltas)
    tests = [path for path in (shown(delta.path) for delta in deltas) if is_test_file(path)]
    return Snapshot(
        made.id.decode(),
        tree.decode(),
        tuple(_change(delta) for delta in deltas[:CHANGES_LISTED_MAX]),
        len(deltas),
        tuple(tests[:TESTS_LISTED_MAX]),
        len(tests),
        tuple(ci_files.paths[:CI_FILES_LISTED_MAX]),
        len(ci_files.paths),
        ci_files.unclear,
        bundle_path,
        patch_path,
    )


def _change(delta: walk.Delta) -> Change:
    kind = "added" if delta.old is None else "deleted" if delta.new is None else "modified"
    return Change.model_validate({"path": shown(delta.path), "change": kind})


def clean(lease: Lease, name: str, result: Snapshot | None) -> Layers:
    """A fresh writable layer on a clean checkout of the result, or of the base, each with what
    was set up."""
    under = (*lease.base.lower_dirs, *lease.set_up_layers)
    if result is None:
        return _layers(lease.folder / name, under, copies=lease.copies)
    if lease.copies or not checkout.can_write_deltas(lease.folder):
        lowers: tuple[Path, ...] = (*lease.set_up_layers, _whole_result(lease, result))
    else:
        lowers = (*under, _result_layer(lease, result))
    return _layers(lease.folder / name, lowers, copies=lease.copies)


def _result_layer(lease: Lease, result: Snapshot) -> Path:
    into = lease.folder / "result"
    remove_tree(into)
    into.mkdir(mode=0o755)
    base, made = ObjectID(lease.base.commit.encode()), ObjectID(result.commit.encode())
    with _store(lease) as store:
        written = checkout.write_delta(
            store, ObjectID(lease.base.tree.encode()), ObjectID(result.tree.encode()), into
        )
        below = lease.base.lower_dirs[-1]
        gitdir.write_result(store, base, made, written, below=below, into=into)
    return into


def _whole_result(lease: Lease, result: Snapshot) -> Path:
    into = lease.folder / "result"
    remove_tree(into)
    into.mkdir(mode=0o755)
    with _store(lease) as store:
        written = checkout.write_tree(store, ObjectID(result.tree.encode()), into)
        gitdir.write_base(store, ObjectID(result.commit.encode()), written, into)
    return into
