"""What image a repository asks for: `image` of its devcontainer.json, at one commit.

Read from the commit, never from a workspace. `.devcontainer/devcontainer.json` comes before
`.devcontainer.json`; both are JSON with comments and trailing commas. A file that is none, is too
large or has no such image (a Dockerfile, a compose file) asks for nothing.
"""

import json
import re

from dulwich.object_store import BaseObjectStore
from dulwich.objects import ObjectID

from wfhub_agent_runner.gitwork import walk

FILE_BYTES_MAX = 256 * 1024
_PLACES = ((b".devcontainer", b"devcontainer.json"), (b".devcontainer.json",))
_STRING = r'"(?:\\.|[^"\\])*"'
_COMMENT = re.compile(rf"({_STRING})|//[^\n]*|/\*.*?\*/", re.DOTALL)
_LAST_COMMA = re.compile(rf"({_STRING})|,(?=\s*[}}\]])", re.DOTALL)


def image_at(store: BaseObjectStore, tree: ObjectID) -> str:
    """Empty: none is asked for. Raises: Rejected for a broken repository."""
    for place in _PLACES:
        if (found := _blob(store, tree, place)) is not None:
            return image_in(found)
    return ""


def _blob(store: BaseObjectStore, tree: ObjectID, place: tuple[bytes, ...]) -> bytes | None:
    at: ObjectID | None = tree
    for folder in place[:-1]:
        at = walk.subtree(walk.entries(store, at).get(folder))
    entry = walk.entries(store, at).get(place[-1])
    if entry is None or walk.kind(entry[0]) not in (walk.FILE, walk.EXECUTABLE):
        return None
    return walk.blob(store, entry[1])


def image_in(text: bytes) -> str:
    if len(text) > FILE_BYTES_MAX:
        return ""
    try:
        plain = _COMMENT.sub(lambda m: m[1] or " ", text.decode("utf-8-sig"))
        told = json.loads(_LAST_COMMA.sub(lambda m: m[1] or "", plain))
    except (ValueError, RecursionError):
        return ""
    image = told.get("image") if isinstance(told, dict) else None
    return image if isinstance(image, str) else ""
