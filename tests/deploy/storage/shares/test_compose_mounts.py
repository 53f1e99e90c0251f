"""What docs/deploy/network-storage.md has in .env is mounted as Docker's local driver does: by
mount(2), with no helper program that would understand more than the kernel."""

import ctypes
import os
import re
from pathlib import Path

import share_lab
from share_lab import Server

DOCS = Path(__file__).parents[4] / "docs" / "deploy" / "network-storage.md"
_libc = ctypes.CDLL(None, use_errno=True)


def mount(server: Server, at: Path, options: str) -> None:
    at.mkdir(exist_ok=True)
    words = (server.device.removeprefix("127.0.0.1"), str(at), server.type)
    flags = 0
    if _libc.mount(*(w.encode() for w in words), flags, options.encode()):
        raise OSError(ctypes.get_errno(), f"{words} {options}: {os.strerror(ctypes.get_errno())}")


def told(server: Server) -> str:
    """SHARE_OPTIONS of the page, for this server."""
    lines = re.findall(r"SHARE_OPTIONS=(\S+)' ", DOCS.read_text())
    assert len(lines) == 2, lines
    options = str(lines[1 if server.kind == "smb" else 0])
    options = re.sub(r"addr=[^,]+", "addr=127.0.0.1", options)
    options = options.replace("username=runner,password=…", share_lab.SMB_USER)
    return options.replace("uid=1000,gid=1000", f"uid={share_lab.UID},gid={share_lab.UID}")


def test_the_options_of_the_docs_are_the_kernels(server: Server) -> None:
    at = Path("/as-docker")
    # Docker takes `rw` out and makes it a flag; it is the default.
    mount(server, at, told(server).replace(",rw,", ","))
    try:
        assert os.path.ismount(at)
        (at / "seen").write_text("x")
        assert (share_lab.AT / "seen").read_text() == "x"
        (at / "seen").unlink()
    finally:
        share_lab.run("umount", at)
