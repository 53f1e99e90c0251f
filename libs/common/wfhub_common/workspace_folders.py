"""Folders below a runner's WORKSPACE_ROOT, as a task names them.

`mount:team/app` is a repository there, `directory:notes/q3` a plain folder. The path is relative,
without `..`; a FolderName's text is its one spelling.
Raises: ValueError, with what to write instead.
"""

import re
from dataclasses import dataclass

MOUNT, DIRECTORY = "mount", "directory"
_NAME = re.compile(rf"({MOUNT}|{DIRECTORY}):(.*)\Z", re.DOTALL)


@dataclass(frozen=True)
class FolderName:
    kind: str  # MOUNT | DIRECTORY
    path: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"


def parse(repo: str) -> FolderName | None:
    """None: it names no such folder, but a remote, a path or a URL."""
    found = _NAME.match(repo)
    if found is None:
        return None
    kind, path = found.groups()
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or not parts or ".." in parts or any(c < " " for c in path):
        raise ValueError(
            f"{kind}: takes a path below the runner's WORKSPACE_ROOT, such as {kind}:team/app;"
            " it is relative and has no '..'"
        )
    return FolderName(kind, "/".join(parts))
