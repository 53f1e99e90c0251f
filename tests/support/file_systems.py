"""Test support: file systems that cannot hold an overlay's upper layer, really mounted (as root).

- `overlay`: itself one, as a container's own file system is: no whiteout can be made on it either.
- `ramfs`: takes one, but has no attributes, so that what is replaced is not recorded.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

KINDS = ("overlay", "ramfs")


@contextlib.contextmanager
def mounted(kind: str, beside: Path, at: Path) -> Iterator[Path]:
    """`beside`: an empty folder on a usual file system."""
    at.mkdir(parents=True, exist_ok=True)
    options: list[str] = []
    if kind == "overlay":
        for name in ("lower", "upper", "work"):
            (beside / name).mkdir(parents=True)
        layers = [f"{name}dir={beside / name}" for name in ("lower", "upper", "work")]
        options = ["-o", ",".join(layers)]
    subprocess.run(["mount", "-t", kind, *options, kind, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)
