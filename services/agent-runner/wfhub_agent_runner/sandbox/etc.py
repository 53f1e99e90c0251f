"""/etc of a bwrap sandbox: what of the host's one may see, as one folder that is bound once.

Each bind has bwrap read the whole mount table, and one of the names took as long as all of them do
now. The folder is a copy of the runner's, made at its start and made anew when the host's has
changed (certificates are renewed, libraries installed): a look at the times of some files per run.
An older copy stays for those who run with it, until the runner's next start.
What the runner may not read is not in it, and no agent may write there.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

HOST = Path("/etc")
NAMES = ("ssl", "alternatives", "ld.so.cache", "localtime")
CHANGING = (*NAMES, "ssl/certs")  # a folder's time tells what was added there, not below


def copies(scratch: Path) -> Path:
    return scratch.with_name(f"{scratch.name}-etc")


class Etc:
    """Copies are made beside `scratch`, the runner's; its next start removes them (see leftovers).
    `own` maps a name to its content."""

    def __init__(self, scratch: Path, own: dict[str, str], host: Path = HOST) -> None:
        self._folder, self._own, self._host = copies(scratch), own, host
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._looked_at = [str(host / name) for name in CHANGING]
        self._seen = self._stamps()
        self._current = self._made()

    def current(self) -> Path:
        if (seen := self._stamps()) != self._seen:
            self._current, self._seen = self._made(), seen
        return self._current

    def _stamps(self) -> list[tuple[int, int] | None]:
        found: list[tuple[int, int] | None] = []
        for path in self._looked_at:
            try:
                at = os.stat(path)
            except OSError:
                found.append(None)
            else:
                found.append((at.st_ino, at.st_mtime_ns))
        return found

    def _made(self) -> Path:
        """A new one: those that run have the old one before them."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        folder.chmod(0o755)
        for name in NAMES:
            with contextlib.suppress(shutil.Error, OSError):  # absent, or not for this uid to read
                _copy(self._host / name, folder / name)
        for name, content in self._own.items():
            (folder / name).write_text(content)
            (folder / name).chmod(0o444)
        return folder


def _copy(source: Path, target: Path) -> None:
    """A folder with its links as they are: they name what lies below /usr, or beside them."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)
