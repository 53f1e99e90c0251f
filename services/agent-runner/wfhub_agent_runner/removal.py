"""Removal of folders that an agent filled: any depth, any mode, any number of entries.

Folders are moved up to the top one by one, so neither path length nor recursion limits it; an
overlay's work folder (mode 000) and folders without permissions are opened first. Nothing is
followed: all steps are by name within an open folder. Call when no sandbox uses it any more. What
somebody else removes meanwhile is fine.
"""

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path

ATTEMPTS_MAX = 10  # where two remove the same
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def remove_tree(path: Path) -> None:
    """Remove `path` and all below it; not being there is fine."""
    for attempt in range(ATTEMPTS_MAX):
        try:
            if not stat.S_ISDIR(path.lstat().st_mode):
                path.unlink()
                return
            path.chmod(0o700)
            _empty_top(path)
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as e:
            # Who else is at it has moved a folder up to the top just now.
            if e.errno != errno.ENOTEMPTY or attempt + 1 == ATTEMPTS_MAX:
                raise
        else:
            return


def _empty_top(path: Path) -> None:
    top = os.open(path, _OPEN)
    try:
        folders: list[str] = []
        _empty(top, top, folders)
        while folders:
            name = folders.pop()
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(name, _OPEN, dir_fd=top)
                try:
                    _empty(fd, top, folders)
                finally:
                    os.close(fd)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _empty(fd: int, top: int, folders: list[str]) -> None:
    """Unlink the files of a folder, move its folders to the top and note their names there."""
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        with contextlib.suppress(FileNotFoundError):
            if not is_folder:
                os.unlink(name, dir_fd=fd)
                continue
            os.chmod(name, 0o700, dir_fd=fd)  # a folder that may not be written cannot be moved
            if fd == top:
                folders.append(name)
            else:
                moved = f"gone-{secrets.token_hex(16)}"
                os.rename(name, moved, src_dir_fd=fd, dst_dir_fd=top)
                folders.append(moved)
