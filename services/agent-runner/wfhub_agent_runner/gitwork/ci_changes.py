"""Which CI files a result changes: told of every attempt, whatever its project makes of it.

A changed path counts if a CI system reads it (wfhub_common.ci_files), if a link at such a path
leads to it (`.gitlab-ci.yml -> ci/main.yml` makes of `ci/main.yml` a CI file), or if a CI file
brings it in from its own repository, by whatever name (ci_includes). Links and what is brought in
are looked at in the base and in the result: so nothing stops being a CI file by being changed.
Cost: that of the changes, of the few folders where CI files are, and of reading these files.
Raises: Rejected, as `walk`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dulwich.object_store import BaseObjectStore
from dulwich.objects import ObjectID
from wfhub_common.ci_files import is_ci_file

from wfhub_agent_runner.gitwork import ci_includes, walk
from wfhub_agent_runner.gitwork.ci_includes import CiFile
from wfhub_agent_runner.gitwork.names import joined, shown

# More of them than these a base commit would have to have: what an agent adds is a change itself.
CI_FILES_MAX = 5000


class Changed(NamedTuple):
    """`unclear`: why there may be more, since nobody can tell what CI files bring in; empty: there
    are not."""

    paths: list[str]
    unclear: str


def changed(
    store: BaseObjectStore, base: ObjectID, tree: ObjectID, deltas: Sequence[walk.Delta]
) -> Changed:
    """The paths, in the order of `deltas` (between the trees `base` and `tree`)."""
    if not deltas:
        return Changed([], "")
    includes = ci_includes.Reader(store)
    brought = [includes.brought_in(each, list(_ci_files(store, each))) for each in (base, tree)]
    paths = [
        shown(path)
        for path, _, _ in deltas
        if is_ci_file(shown(path)) or any(each.has(shown(path)) for each in brought)
    ]
    return Changed(paths, next((each.unclear for each in brought if each.unclear), ""))


def _ci_files(store: BaseObjectStore, tree: ObjectID) -> Iterator[CiFile]:
    """Files and links."""
    count = 0
    folders = [(b"", tree)]
    while folders:
        folder, oid = folders.pop()
        walk.check_depth(folder)
        for name, (mode, content) in walk.entries(store, oid).items():
            path = joined(folder, name)
            if not is_ci_file(shown(path)):
                continue
            if mode == walk.DIR:
                folders.append((path, content))
            elif mode != walk.GITLINK and count < CI_FILES_MAX:
                count += 1
                yield CiFile(path, walk.blob(store, content) if mode == walk.LINK else None)
