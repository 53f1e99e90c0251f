"""What the CI files of a tree bring in from the tree itself, however it is named.

From the files that GitLab and the hosts with actions read by themselves, and what links there lead
to, to what these name, and to what that names, until nothing new is found. (Other systems' files
are not read.)
A file that cannot be read so, or more of them than the limits allow, makes it unclear: then nobody
knows what else is brought in, which is said.
Cost: that of reading these files; one that is the same in two trees is read once.
Raises: Rejected, as `walk`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from dulwich.object_store import BaseObjectStore
from dulwich.objects import ObjectID

from wfhub_agent_runner.gitwork import ci_references, limits, tree_links, walk
from wfhub_agent_runner.gitwork.ci_references import YAML_ENDS, Reference, System, Unclear
from wfhub_agent_runner.gitwork.names import joined, shown

_SYSTEMS = {
    **dict.fromkeys((".gitlab-ci.yml", ".gitlab-ci", ".gitlab"), System.GITLAB),
    **dict.fromkeys((".github", ".gitea", ".forgejo"), System.ACTIONS),
}


class CiFile(NamedTuple):
    """`link`: what it says, where it is one."""

    path: bytes
    link: bytes | None


@dataclass
class Brought:
    """Case folded: some hosts and most checkouts fold paths. `unclear`: why there may be more."""

    paths: set[str] = field(default_factory=set)  # of files, and of folders with all in them
    above: set[str] = field(default_factory=set)  # the folders that they are in
    patterns: set[Reference] = field(default_factory=set)
    unclear: str = ""

    def has(self, path: str) -> bool:
        """A folder above such a path is a leaf only where it became a link or a submodule."""
        folded = path.casefold()
        return (
            folded in self.above
            or any(each in self.paths for each in (folded, *_folders(folded)))
            or any(pattern.matches(folded) for pattern in self.patterns)
        )

    def add(self, path: str) -> None:
        folded = path.casefold()
        self.paths.add(folded)
        self.above.update(_folders(folded))

    def add_all_of(self, pattern: Reference) -> None:
        """Raises: Unclear."""
        begin = pattern.begin.casefold()
        self.above.update(_folders(begin))
        ends = (pattern.end.casefold(),) if pattern.end else YAML_ENDS
        self.patterns |= {Reference(begin, end) for end in ends}
        _check("wildcards in CI files", len(self.patterns), limits.CI_WILDCARDS_MAX)


class Reader:
    """For the trees of one result: the limits are for all of them together."""

    def __init__(self, store: BaseObjectStore) -> None:
        self._store = store
        self._read: dict[tuple[ObjectID, bytes, System], set[Reference]] = {}
        self._bytes_read = 0
        self._looked_at = 0

    def brought_in(self, tree: ObjectID, ci_files: Iterable[CiFile]) -> Brought:
        brought = Brought()
        try:
            self._follow(tree, self._roots(tree, ci_files, brought), brought)
        except Unclear as e:
            brought.unclear = str(e)
        return brought

    def _roots(
        self, tree: ObjectID, ci_files: Iterable[CiFile], brought: Brought
    ) -> list[tuple[bytes, System]]:
        found = []
        for path, link in ci_files:
            system = _SYSTEMS.get(shown(path).casefold().partition("/")[0])
            files = [path]
            if link is not None:
                folder, _, _ = path.rpartition(b"/")
                files = self._led_to(tree, folder, link, brought)
            if system is not None:
                found += [(file, system) for file in files]
        return found

    def _led_to(
        self, tree: ObjectID, folder: bytes, target: bytes, brought: Brought
    ) -> list[bytes]:
        """The file there, or those in the folder there."""
        way = tree_links.followed(self._store, tree, folder, target)
        for path in way.paths:
            brought.add(shown(path))
        if way.end is None:
            return []
        entry = walk.at(self._store, tree, way.end.split(b"/"))
        return list(self._below(tree, way.end)) if walk.subtree(entry) else [way.end]

    def _follow(self, tree: ObjectID, roots: list[tuple[bytes, System]], brought: Brought) -> None:
        todo = deque((path, system, 0) for path, system in roots)
        files, named = set(roots), set[tuple[Reference, System]]()
        while todo:
            path, system, depth = todo.popleft()
            for reference in self._named_by(tree, path, system):
                if (reference, system) in named:
                    continue
                named.add((reference, system))
                _check("paths named by CI files", len(named), limits.CI_NAMED_MAX)
                for file in self._files(tree, reference, brought):
                    if reference.opened and (file, system) not in files:
                        files.add((file, system))
                        _check("inclusions in a row", depth + 1, limits.CI_INCLUSIONS_DEEP_MAX)
                        todo.append((file, system, depth + 1))

    def _files(self, tree: ObjectID, reference: Reference, brought: Brought) -> list[bytes]:
        if reference.end is None:
            brought.add(reference.begin)
            return self._led_to(tree, b"", reference.begin.encode("utf-8", "replace"), brought)
        brought.add_all_of(reference)
        folder, _, _ = reference.begin.rpartition("/")
        below = self._below(tree, folder.encode("utf-8", "replace"))
        return [path for path in below if reference.matches(shown(path))]

    def _named_by(self, tree: ObjectID, path: bytes, system: System) -> set[Reference]:
        entry = walk.at(self._store, tree, path.split(b"/"))
        if entry is None or walk.kind(entry[0]) not in (walk.FILE, walk.EXECUTABLE):
            return set()
        key = entry[1], path, system
        if key not in self._read:
            _check("CI files to read", len(self._read) + 1, limits.CI_FILES_READ_MAX)
            content = walk.blob(self._store, entry[1])
            self._bytes_read += len(content)
            _check("bytes of CI files", self._bytes_read, limits.CI_BYTES_READ_MAX)
            try:
                self._read[key] = ci_references.named_by(content, shown(path), system)
            except Unclear as e:
                raise Unclear(f"{shown(path)!r} {e}") from e
        return self._read[key]

    def _below(self, tree: ObjectID, top: bytes) -> Iterator[bytes]:
        """The YAML files below that folder."""
        root = walk.subtree(
            walk.at(self._store, tree, top.split(b"/")) if top else (walk.DIR, tree)
        )
        folders = [(top, root)] if root else []
        while folders:
            folder, oid = folders.pop()
            walk.check_depth(folder)
            for name, (mode, content) in walk.entries(self._store, oid).items():
                self._looked_at += 1
                _check("paths to look for CI files in", self._looked_at, limits.CI_LOOKED_AT_MAX)
                path = joined(folder, name)
                if mode == walk.DIR:
                    folders.append((path, content))
                elif shown(name).endswith(YAML_ENDS):
                    yield path


def _folders(path: str) -> Iterator[str]:
    """Each folder that it is in."""
    parts = path.split("/")
    for count in range(len(parts) - 1, 0, -1):
        yield "/".join(parts[:count])


def _check(what: str, found: int, at_most: int) -> None:
    if found > at_most:
        raise Unclear(f"there are more than {at_most} {what}")
