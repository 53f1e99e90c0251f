"""Source releases: fetched with pip by name and hash, read from the archive without unpacking it.

Raises: CannotPrepare, with what pip said.
"""

import hashlib
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

PIP_S_MAX = 300


class CannotPrepare(Exception):
    """Something that the demo needs cannot be fetched or made here."""


@dataclass(frozen=True)
class Release:
    name: str
    version: str
    sha256: str

    @property
    def archive_name(self) -> str:
        return f"{self.name}-{self.version}.tar.gz"


@dataclass(frozen=True)
class SourceFile:
    content: bytes
    executable: bool


DEFECTIVE = Release(
    "parse", "1.17.0", "c7806139a481ec8c8336a54418894c8b201314f8ecc63e55f438f4b72bdc4485"
)
REPAIRED = Release(
    "parse", "1.18.0", "91666032d6723dc5905248417ef0dc9e4c51df9526aaeef271eacad6491f06a4"
)


def pip(python: Path, *arguments: str) -> None:
    """pip of this environment, working on another one (`python`)."""
    import sys

    command = [sys.executable, "-m", "pip", "--python", str(python), "--isolated", "-q"]
    command += ["--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_S_MAX, check=False)
    if done.returncode != 0:
        raise CannotPrepare(f"`pip {' '.join(arguments)}` failed:\n{done.stderr.strip()[-2000:]}")


def fetch(release: Release, folder: Path, *, python: Path) -> Path:
    """The release's archive in `folder`, its hash checked; what is there already is not fetched
    again. `python` belongs to an environment with setuptools, which pip asks for its metadata."""
    archive = folder / release.archive_name
    if archive.exists() and hashlib.sha256(archive.read_bytes()).hexdigest() == release.sha256:
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirement:
        requirement.write(f"{release.name}=={release.version} --hash=sha256:{release.sha256}\n")
        requirement.flush()
        pip(
            python,
            "download",
            "--no-deps",
            "--no-binary=:all:",
            "--no-build-isolation",
            "--require-hashes",
            f"--dest={folder}",
            f"--requirement={requirement.name}",
        )
    return archive


def files_of(archive: Path) -> dict[str, SourceFile]:
    """Path below the archive's one folder → file. A source release has regular files alone."""
    files = {}
    with tarfile.open(archive) as packed:
        for member in packed:
            if member.isfile() and (content := packed.extractfile(member)) is not None:
                path = member.name.split("/", 1)[1]
                files[path] = SourceFile(content.read(), bool(member.mode & 0o100))
    return files
