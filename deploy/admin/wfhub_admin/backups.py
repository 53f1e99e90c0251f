"""A folder of backups, of which the newest are kept: `hub-<UTC time>.wfhub`.

What a backup that was broken off left behind is removed a day later: nothing takes that long.
"""

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

FORM = "hub-%Y%m%dT%H%M%SZ.wfhub"
_OURS = re.compile(r"hub-\d{8}T\d{6}Z\.wfhub")
_LEFT = re.compile(rf"{_OURS.pattern}\.new|\.wfhub-backup-.*")
LEFT_MAX = timedelta(days=1)


def new(folder: Path, now: datetime) -> Path:
    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder: --keep wants one to keep backups in")
    return folder / now.strftime(FORM)


def remove_old(folder: Path, keep: int, now: datetime) -> list[str]:
    """The names of those that had to go; called when the newest is whole."""
    entries = sorted(folder.iterdir())
    old = [path for path in entries if _OURS.fullmatch(path.name)][:-keep]
    left = [path for path in entries if _LEFT.fullmatch(path.name) and _age(path, now) > LEFT_MAX]
    for path in (*old, *left):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return [path.name for path in (*old, *left)]


def _age(path: Path, now: datetime) -> timedelta:
    return now - datetime.fromtimestamp(path.lstat().st_mtime, UTC)
