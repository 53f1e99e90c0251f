"""Files and folders that belong to one uid and that no other may read."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def as_owner(folder: Path) -> Iterator[None]:
    """Where root may not write in `folder` (a share whose server takes it for nobody), it is the
    folder's owner meanwhile, in all of the process. Raises: SystemExit when it may not be that."""
    if os.geteuid() != 0 or not folder.exists() or os.access(folder, os.W_OK | os.X_OK):
        yield
        return
    owner, group = folder.stat(), os.getegid()
    try:
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    except PermissionError as e:
        os.setegid(group)
        raise SystemExit(
            f"root may not write in {folder}, nor become its owner (uid {owner.st_uid}): run this"
            " as that uid, or with the capabilities SETUID and SETGID"
        ) from e
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def private_folder(path: Path, uid: int) -> Path:
    """A folder of one uid and no other. One that was another's (an earlier start as another user)
    is handed over with its content; one that is `uid`'s already is not looked into: root must
    give away nothing that its owner may have linked there."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.stat().st_uid != uid:
        os.chown(path, uid, uid)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.lchown(os.path.join(folder, name), uid, uid)
    os.chmod(path, 0o700)
    return path


def private_file(path: Path, content: str, uid: int) -> Path:
    """Written in full or not at all; never readable by another uid, not even for a moment."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        if os.geteuid() == 0:
            os.fchown(descriptor, uid, uid)
        file.write(content)
    new.replace(path)
    return path
