"""Removes the cgroups of a runner when it is gone, whatever ended it: a small process, as root.

`python -I -S cgroup_keeper.py FOLDER…`: waits until its stdin ends, which the runner holds and
never writes to; standard library only. A process of a killed sandbox may take a moment to be gone,
so it tries for REMOVE_S_MAX.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LEAF = "runner"  # of v2: where the runner is, and this process, which it started
REMOVE_S_MAX = 5.0
REMOVE_AGAIN_S = 0.02


def remove(folder: Path) -> None:
    """Raises: OSError while a process is left in it."""
    for entry in list(folder.iterdir()):
        if entry.is_dir():
            remove(entry)
    folder.rmdir()


def keep(folders: Sequence[Path]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.read(0, 1)
    left, until = list(folders), time.monotonic() + REMOVE_S_MAX
    while left and time.monotonic() < until:
        left = [folder for folder in left if not _removed(folder)]
        time.sleep(REMOVE_AGAIN_S)


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        if (folder / LEAF).is_dir():
            (folder.parent / "cgroup.procs").write_text(str(os.getpid()))
    try:
        remove(folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


if __name__ == "__main__":
    keep([Path(word) for word in sys.argv[1:]])
