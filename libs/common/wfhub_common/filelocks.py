"""Locks of whole files, held by an open file, that mean the same on a local disk, NFS and SMB.

Open the file for writing: NFS makes byte-range locks of these, and has no exclusive ones for who
may only read. On SMB a lock binds everybody: who does not hold it cannot read the file either, and
a taken lock is told as EACCES. The kernel lets a lock go when its file is closed, whatever ended
the process; a server does when the client was silent for its lease (NFS: 90 s).
Raises: OSError.
"""

import fcntl
from typing import IO


def exclusive(file: IO[bytes] | int) -> None:
    """Wait for it."""
    fcntl.flock(file, fcntl.LOCK_EX)


def try_exclusive(file: IO[bytes] | int) -> bool:
    """False: somebody else holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
