"""The demo's toolchain: a virtual environment with pytest, bound read-only into the sandbox.

A folder with `bin/`, made once from a lock, toolchain.lock; the stack is given it as a toolchain.
Raises: CannotPrepare.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from wfhub_local.demo.sources import CannotPrepare, pip

SYSTEM_PYTHON = Path("/usr/bin/python3")  # always in the sandbox, whoever may read it outside
PYTHON_MIN = (3, 11)  # before it pytest needs more than toolchain.lock has
STAMP = "wfhub-demo-lock"  # holds the lock's digest, written last


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


LOCK = Path(__file__).with_name("toolchain.lock")


def make(folder: Path, lock: Path = LOCK) -> Path:
    """The toolchain in `folder`, made anew unless it is there and of the same lock."""
    base = _base_python()
    made_of = f"{base} {hashlib.sha256(lock.read_bytes()).hexdigest()}\n"
    stamp = folder / STAMP
    if stamp.exists() and stamp.read_text() == made_of and python_of(folder).exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(base), "-m", "venv", "--without-pip", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotPrepare(f"`{' '.join(command)}` failed:\n{done.stderr.strip()}")
    pip(
        python_of(folder),
        "install",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--no-compile",
        f"--requirement={lock}",
    )
    # Compiled here, once: the sandbox may only read it.
    subprocess.run([str(python_of(folder)), "-m", "compileall", "-q", str(folder)], check=False)
    stamp.write_text(made_of)
    return folder


def _base_python() -> Path:
    if SYSTEM_PYTHON.exists():
        asked = [str(SYSTEM_PYTHON), "-c", "import sys, venv; print(*sys.version_info[:2])"]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        if answer.returncode == 0 and tuple(map(int, answer.stdout.split())) >= PYTHON_MIN:
            return SYSTEM_PYTHON
    return Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
