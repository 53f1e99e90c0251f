"""The runner's own Python for inside a container, whatever C library the image has, if any.

Shape: a folder with a copy of the program, of its loader and of every library that it and its
modules name; the standard library is bound beside it, read-only. It is started through its own
loader, so that none of the image's libraries is used. The folder is kept, and made anew when the
program has changed.
Raises: Rejected when the libraries cannot be listed.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wfhub_common.errors import Rejected

LIST_TIMEOUT_S = 30.0
ABOUT = "about"  # of what it is a copy
_LIBRARY = re.compile(r"=> (/\S+) \(0x")
_PT_INTERP = 3


@dataclass(frozen=True)
class Interpreter:
    """`words` start it inside, of which the first is `program` on the host. `binds` maps a path
    inside to a host path; all read-only, a folder before what is in it."""

    words: tuple[str, ...]
    program: Path
    binds: Mapping[str, Path]


def gathered(python: Path, folder: Path, at: str) -> Interpreter:
    """What `python` needs, in `folder`, which will lie at `at` inside."""
    version = f"python3.{sys.version_info.minor}"
    library = python.resolve().parent.parent / "lib" / version
    found = python.resolve().stat()
    about = json.dumps([str(python), found.st_size, found.st_mtime_ns, sys.version])
    if not (folder / ABOUT).exists() or (folder / ABOUT).read_text() != about:
        shutil.rmtree(folder, ignore_errors=True)
        _copy(python, library, folder, version)
        (folder / ABOUT).write_text(about)
    words: tuple[str, ...] = (f"{at}/bin/{version}",)
    program = folder / "bin" / version
    if (folder / "loader").exists():
        words = (f"{at}/loader", "--library-path", f"{at}/libraries", *words)
        program = folder / "loader"
    return Interpreter(words, program, {at: folder, f"{at}/lib/{version}": library})


def _copy(python: Path, library: Path, folder: Path, version: str) -> None:
    for name in ("bin", "libraries", f"lib/{version}"):
        (folder / name).mkdir(parents=True)
    shutil.copy(python, folder / "bin" / version)
    if loader := _loader(python):
        modules = sorted((library / "lib-dynload").glob("*.so"))
        for path in _libraries((python, *modules)):
            shutil.copy(path, folder / "libraries" / path.name)
        shutil.copy(loader, folder / "loader")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def _loader(program: Path) -> Path | None:
    """What the kernel would start it with; None for a static one."""
    with program.open("rb") as file:
        head = file.read(64)
        if head[:5] != b"\x7fELF\x02":
            raise Rejected("sandbox-interpreter", f"{program} is no 64-bit ELF program")
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        for number in range(count):
            file.seek(offset + number * size)
            header = file.read(size)
            kind, _, at, _, _, length = struct.unpack_from("<IIQQQQ", header)
            if kind == _PT_INTERP:
                file.seek(at)
                return Path(os.fsdecode(file.read(length).rstrip(b"\0")))
    return None


def _libraries(files: tuple[Path, ...]) -> set[Path]:
    try:
        listed = subprocess.run(
            ["ldd", *map(str, files)], capture_output=True, timeout=LIST_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as e:
        raise Rejected("sandbox-interpreter", f"ldd does not run: {e}; install libc-bin") from e
    return {Path(path) for path in _LIBRARY.findall(listed.stdout.decode(errors="replace"))}
