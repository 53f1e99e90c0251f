"""Installing an agent's program into a toolchain folder, at the version that our lock pins.

    INTO/bin/…          programs, which `--toolchain INTO` puts into every sandbox's PATH
    INTO/NAME/…         one agent: a virtual environment, or node_modules; wfhub-agent.json says
                        which lock it is of, and is written last
    INTO/node/…         Node.js and npm, for what comes from npm

pip checks hashes, npm checks integrity; no package's install script is run. Installing again what
is there does nothing. The folder is found by its path: it cannot be moved.
Raises: SystemExit with what pip, npm or the machine said, and what to do.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from wfhub_local.agents import catalogue
from wfhub_local.agents.catalogue import Npm, Pip, Source

STAMP = "wfhub-agent.json"
INSTALL_S_MAX = 900
SAID_CHARS_MAX = 2000
SYSTEM_PYTHON = Path("/usr/bin/python3")  # always in the sandbox
PYTHON_MIN, PYTHON_END = (3, 11), (3, 13)  # what the locks are for, and aider's last but one

Say = Callable[[str], None]


def install(name: str, into: Path, *, say: Say) -> None:
    """`into` is made when it is not there."""
    if name not in catalogue.SOURCES:
        known = ", ".join(sorted(catalogue.SOURCES))
        raise SystemExit(f"{name!r} cannot be installed by us; choose one of: {known}")
    source, into = catalogue.SOURCES[name], into.absolute()
    if isinstance(source, Npm):
        _install_node(into / catalogue.NODE, say)
    folder = into / name
    if not _is_there(folder, name, source, say):
        match source:
            case Pip():
                _pip(name, folder)
            case Npm():
                _npm(name, source, folder, into / catalogue.NODE)
        _stamp(folder, name, source)
    (into / "bin").mkdir(exist_ok=True)
    for program, write in _launchers(folder, source, into / catalogue.NODE):
        link = into / "bin" / program
        link.unlink(missing_ok=True)
        write(link)


def programs(into: Path) -> list[str]:
    folder = into / "bin"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _is_there(folder: Path, name: str, source: Source | None, say: Say) -> bool:
    """False: not of this lock, and the folder is empty now."""
    try:
        found = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        found = None
    if found == _made_of(name, source):
        say(f"{name}: there already, in {folder}")
        return True
    say(f"{name}: installing into {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return False


def _stamp(folder: Path, name: str, source: Source | None) -> None:
    (folder / STAMP).write_text(json.dumps(_made_of(name, source)) + "\n")


def _made_of(name: str, source: Source | None) -> dict[str, Any]:
    lock = f"{name}/package-lock.json" if isinstance(source, Npm) else f"{name}.lock"
    digest = hashlib.sha256((catalogue.LOCKS / lock).read_bytes()).hexdigest()
    python = str(_base_python()) if isinstance(source, Pip) else ""
    return {"name": name, "lock": digest, "python": python}


def _launchers(
    folder: Path, source: Source, node: Path
) -> Iterator[tuple[str, Callable[[Path], None]]]:
    match source:
        case Pip(names):
            for program in names:
                yield program, _link(folder / "bin" / program)
        case Npm(native, scripts):
            for program, paths in native.items():
                found = sorted(folder.glob(paths.get(catalogue.cpu(), "-")))
                if not found:
                    raise SystemExit(f"{program} is not packaged for {catalogue.cpu()}")
                yield program, _link(found[0])
            for program, path in scripts.items():
                yield program, _on_node(folder / path, node)


def _link(target: Path) -> Callable[[Path], None]:
    return lambda link: link.symlink_to(os.path.relpath(target, link.parent))


def _on_node(script: Path, node: Path) -> Callable[[Path], None]:
    text = f'#!/bin/sh\nexec {node / catalogue.NODE_PROGRAM} {script} "$@"\n'

    def write(link: Path) -> None:
        link.write_text(text)
        link.chmod(0o755)

    return write


def _pip(name: str, folder: Path) -> None:
    python = folder / "bin" / "python"
    _run([str(_base_python()), "-m", "venv", "--without-pip", str(folder)])
    _pip_install(name, ["--python", str(python)], [])


def _install_node(folder: Path, say: Say) -> None:
    if not _is_there(folder, catalogue.NODE, None, say):
        _pip_install(catalogue.NODE, [], ["--target", str(folder)])
        _stamp(folder, catalogue.NODE, None)


def _pip_install(name: str, pip_options: list[str], options: list[str]) -> None:
    """The pip of our own environment; it need not be in the other."""
    quiet = ["--isolated", "-q", "--disable-pip-version-check", "--no-input"]
    how = ["--no-deps", "--require-hashes", "--only-binary=:all:"]
    with resources.as_file(catalogue.LOCKS / f"{name}.lock") as lock:
        pip = [sys.executable, "-m", "pip", *pip_options, *quiet, "install", *how]
        _run([*pip, *options, f"--requirement={lock}"])


def _npm(name: str, source: Npm, folder: Path, node: Path) -> None:
    for file in ("package.json", "package-lock.json"):
        (folder / file).write_bytes((catalogue.LOCKS / name / file).read_bytes())
    # `ci` wants every optional part of every platform in the lock.
    how = "ci" if source.with_optional else "install --no-save --omit=optional"
    options = "--ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error"
    npm = [str(node / catalogue.NODE_PROGRAM), str(node / catalogue.NPM_SCRIPT)]
    _run([*npm, *how.split(), *options.split()], cwd=folder)


def _run(command: list[str], cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"`{command[0]}` took over {INSTALL_S_MAX} s; try again") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[:SAID_CHARS_MAX]
        raise SystemExit(f"`{' '.join(command[:4])} …` failed:\n{said}")


def _base_python() -> Path:
    """One that a sandbox has: the system's, else the one that we run on."""
    for python in (SYSTEM_PYTHON, Path(sys.base_prefix) / "bin" / "python3"):
        if not python.exists():
            continue
        asked = [str(python), "-c", "import sys, venv; print(*sys.version_info[:2])"]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        if answer.returncode == 0 and (
            PYTHON_MIN <= tuple(map(int, answer.stdout.split())) < PYTHON_END
        ):
            return python
    wanted = " to ".join(".".join(map(str, v)) for v in (PYTHON_MIN, PYTHON_END))
    raise SystemExit(f"agents from PyPI need a Python from {wanted}, that one excluded")
