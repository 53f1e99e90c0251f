"""Folders on network file systems: how they are mounted, and what of that may lose work.

Read from the kernel's list of mounts alone, so that no server is waited for. `dangers` are
sentences: what may happen, and what to do.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_NFS, _SMB = ("nfs", "nfs4"), ("cifs", "smb3")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_OLD_NFS = re.compile(r"[23]|4|4\.0")
_OLD_SMB = re.compile(r"[12](\..*)?|3|3\.0")


@dataclass(frozen=True)
class Share:
    at: Path
    type: str  # nfs or smb
    device: str
    options: dict[str, str]  # as the kernel tells them, which are the defaults too

    @property
    def has_modes(self) -> bool:
        """Whether files have permission bits of their own: without, SMB has the mount's for all."""
        return self.type == "nfs" or bool({"modefromsid", "cifsacl", "posix"} & self.options.keys())


def found(mounts: str | None = None) -> list[Share]:
    """Every share that is mounted, as this process sees it."""
    return list(_parsed(MOUNTS.read_text() if mounts is None else mounts))


def holding(path: Path, mounts: str | None = None) -> Share | None:
    """The share that a folder lies on; None: a file system of this machine."""
    text = MOUNTS.read_text() if mounts is None else mounts
    real = Path(os.path.realpath(path))
    inner, shares = Path("/"), {share.at: share for share in _parsed(text)}
    for line in text.splitlines():
        at = Path(_plain(line.split(" ")[4]))
        if real.is_relative_to(at) and len(at.parts) >= len(inner.parts):
            inner = at
    return shares.get(inner)


def dangers(share: Share) -> Iterator[str]:
    has = share.options
    if "soft" in has or "softerr" in has:
        yield (
            "mounted soft: while the server is away a write fails, also one that a program was told"
            " is done; mount it with hard"
        )
    if share.type == "nfs":
        if has.get("local_lock", "none") != "none" or "nolock" in has:
            yield "locks are not the server's: two runners may write at once; mount without nolock"
        if _OLD_NFS.fullmatch(has.get("vers", "")):
            yield "a request may be carried out twice; mount with nfsvers=4.2"
        return
    if "nobrl" in has:
        yield "locks are not the server's: two runners may write at once; mount without nobrl"
    if has.get("cache") == "loose":
        yield "others' writes may not be seen; mount with cache=none"
    if _OLD_SMB.fullmatch(has.get("vers", "")):
        yield "mounted with an old SMB; mount with vers=3.1.1"


def _parsed(text: str) -> Iterator[Share]:
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, device, options = after.split(" ", 2)
        if kind in _NFS or kind in _SMB:
            pairs = (part.partition("=") for part in options.split(","))
            yield Share(
                Path(_plain(before.split(" ")[4])),
                "nfs" if kind in _NFS else "smb",
                _plain(device),
                {name: value for name, _, value in pairs},
            )


def _plain(text: str) -> str:
    """The kernel writes spaces and such as octal numbers."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)
