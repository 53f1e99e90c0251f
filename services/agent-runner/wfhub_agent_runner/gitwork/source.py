"""A user's repository, opened by hand: objects and refs, never its hooks, filters or config's
commands. Of its configuration only the format, extensions and file sharing are read, without
includes. Runs in the access helper alone.

Raises: Rejected (`repo-format-unsupported`, `repo-empty`, `base-not-found`, `repo-corrupt`).
"""

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dulwich.config import ConfigFile
from dulwich.file import SharedPerm
from dulwich.object_store import DiskObjectStore
from dulwich.objects import Commit, ObjectID, Tag
from dulwich.repo import parse_shared_repository
from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork import refs, walk
from wfhub_agent_runner.gitwork.location import Layout

_HARMLESS_EXTENSIONS = {
    b"noop",
    b"preciousobjects",
    b"partialclone",  # a missing object is reported when it is met
    b"worktreeconfig",
    b"relativeworktrees",
}
_CONFIG_BYTES_MAX = 1024 * 1024
_FULL_ID = re.compile(r"[0-9a-f]{40}\Z")
_TAG_DEPTH_MAX = 10
_SUGGESTIONS_MAX = 5


@dataclass(frozen=True)
class Source:
    layout: Layout
    store: DiskObjectStore
    shared: SharedPerm | None  # core.sharedRepository, for what is written


@dataclass(frozen=True)
class Resolved:
    """A commit to start from. `ref` is empty when an id was given."""

    commit: str
    tree: str
    ref: str
    default_branch: str


@contextmanager
def opened(layout: Layout) -> Iterator[Source]:
    config = _config(layout)
    _check_format(config)
    try:
        shared = parse_shared_repository(config.get((b"core",), b"sharedRepository"))
    except KeyError:
        shared = None
    store = DiskObjectStore(layout.common / "objects")
    try:
        yield Source(layout, store, shared)
    finally:
        store.close()


def _config(layout: Layout) -> ConfigFile:
    try:
        with (layout.common / "config").open("rb") as f:
            if os.fstat(f.fileno()).st_size > _CONFIG_BYTES_MAX:
                raise Rejected("repo-corrupt", "the repository's config is larger than 1 MiB")
            return ConfigFile.from_file(f, expand_includes=False)
    except FileNotFoundError:
        return ConfigFile()
    except ValueError as e:
        raise Rejected("repo-corrupt", f"the repository's config is malformed: {e}") from e


def _check_format(config: ConfigFile) -> None:
    def unsupported(what: str) -> Rejected:
        return Rejected(
            "repo-format-unsupported",
            f"the repository uses {what}, which is not supported yet; use a clone with the files"
            " ref store and SHA-1 ids",
        )

    try:
        version = config.get((b"core",), b"repositoryformatversion")
    except KeyError:
        version = b"0"
    if version not in (b"0", b"1"):
        raise unsupported(f"format version {version.decode(errors='replace')}")
    try:
        extensions = dict(config.items((b"extensions",)))
    except KeyError:
        return
    for key, setting in extensions.items():
        name = key.lower()
        default = {b"objectformat": b"sha1", b"refstorage": b"files"}.get(name)
        if name not in _HARMLESS_EXTENSIONS and setting.lower() != default:
            raise unsupported(f"{name.decode(errors='replace')}={setting.decode(errors='replace')}")


def resolve(source: Source, base: str | None) -> Resolved:
    """`base`: a branch, tag, full ref name or full commit id; None: HEAD. A name is looked up
    as git does: refs/, tags, branches, remote branches."""
    head, head_id = refs.follow(source.layout, b"HEAD")
    default = os.fsdecode(head.removeprefix(refs.BRANCHES)) if head != b"HEAD" else ""
    if base is None or base == "HEAD":
        if head_id is None:
            raise _unborn(source, default)
        name, oid = head, head_id
    else:
        name, oid = _named(source, base)
    commit = _peeled(source, oid, base or "HEAD")
    ref = "" if name == b"HEAD" else os.fsdecode(name)
    return Resolved(commit.id.decode(), commit.tree.decode(), ref, default)


def _unborn(source: Source, default: str) -> Rejected:
    branches = refs.names(source.layout, refs.BRANCHES)
    if branches:
        return base_not_found(f"HEAD ({default})", branches)
    return Rejected("repo-empty", "the repository has no commit yet; make a first one")


def _named(source: Source, base: str) -> tuple[bytes, ObjectID]:
    wanted = os.fsencode(base)
    templates = (b"%s", b"refs/%s", b"refs/tags/%s", b"refs/heads/%s", b"refs/remotes/%s")
    for name in (template % wanted for template in templates):
        if name.startswith(b"refs/") and refs.is_valid(name):
            found, oid = refs.follow(source.layout, name)
            if oid is not None:
                return found, oid
    if _FULL_ID.match(base) and ObjectID(wanted) in source.store:
        return b"HEAD", ObjectID(wanted)
    branches = refs.names(source.layout, refs.BRANCHES)
    if not branches and refs.follow(source.layout, b"HEAD")[1] is None:
        raise _unborn(source, "")
    raise base_not_found(base, branches)


def base_not_found(base: str, branches: list[bytes]) -> Rejected:
    known = [os.fsdecode(name.removeprefix(refs.BRANCHES)) for name in branches]
    near = difflib.get_close_matches(base, known, _SUGGESTIONS_MAX, 0.5) or known[:_SUGGESTIONS_MAX]
    near = [name.encode("utf-8", "backslashreplace").decode() for name in near]
    have = f"; it has {', '.join(near)}" if near else ""
    return Rejected(
        "base-not-found",
        f"the repository has no branch, tag or commit {base!r}{have}",
        base=base,
        available=near,
    )


def _peeled(source: Source, oid: ObjectID, base: str) -> Commit:
    for _ in range(_TAG_DEPTH_MAX):
        try:
            type_num, content = source.store.get_raw(oid)
        except KeyError:
            return walk.commit(source.store, oid)  # raises repo-object-missing
        if type_num != Tag.type_num:
            break
        tag = Tag.from_string(content)
        assert isinstance(tag, Tag)
        oid = tag.object[1]
    if type_num != Commit.type_num:
        raise Rejected("base-not-found", f"{base!r} is not a commit; name a branch", base=base)
    return walk.commit(source.store, oid)
