"""Names inside a tree: which a workspace may hold, and how they are shown.

Names are bytes. Refused are those that some file system reads as `.git` or as a way out
(dulwich's NTFS and HFS+ rules; a name that is not UTF-8 cannot be an HFS+ spelling).
Raises: Rejected, with the code the caller gives.
"""

# dulwich imports it when it meets the first name: too late for a helper that is nobody by then.
import unicodedata  # noqa: F401
from collections.abc import Iterable

from dulwich.index import validate_path_element_hfs, validate_path_element_ntfs
from wfhub_common.errors import Rejected

DOT_GIT = b".git"
_NAME_BYTES_MAX = 255


def is_safe(name: bytes) -> bool:
    if not name or len(name) > _NAME_BYTES_MAX or b"/" in name or b"\0" in name:
        return False
    if not validate_path_element_ntfs(name):
        return False
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return validate_path_element_hfs(name)


def shown(path: bytes) -> str:
    """UTF-8, undecodable bytes as \\xNN (messages.Change.path)."""
    return path.decode("utf-8", "backslashreplace")


def joined(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def check(name: bytes, folder: bytes, *, code: str) -> None:
    if not is_safe(name):
        raise Rejected(
            code,
            f"the name {shown(joined(folder, name))!r} is refused: some systems read it as"
            " a repository's own folder or as a way out; rename it",
            path=shown(joined(folder, name)),
        )


def check_links_fold_alone(names: Iterable[tuple[bytes, bool]], folder: bytes) -> None:
    """Refuse a symbolic link whose name another entry has in other letter case: on a file system
    that folds case, writing the other would write through the link. `names`: (name, is link)."""
    seen: dict[bytes, bool] = {}
    for name, is_link in names:
        folded = name.lower()
        if folded in seen and (is_link or seen[folded]):
            raise Rejected(
                "repo-hostile-path",
                f"{shown(joined(folder, name))!r} is a link whose name another entry has in other"
                " letter case; rename one in the repository",
                path=shown(joined(folder, name)),
            )
        seen[folded] = seen.get(folded, False) or is_link
