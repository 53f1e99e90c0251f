"""Repositories of a given size, made by `git fast-import`: the same bytes for the same numbers."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

FILES_PER_FOLDER = 100
LINE = b"a line of text that says which file and which version it is part of\n"
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Bench",
    "GIT_AUTHOR_EMAIL": "bench@localhost",
    "GIT_COMMITTER_NAME": "Bench",
    "GIT_COMMITTER_EMAIL": "bench@localhost",
}


def git(cwd: Path, *args: str | Path, stdin: bytes | None = None) -> str:
    done = subprocess.run(
        ["git", *args], cwd=cwd, env=ENVIRONMENT, input=stdin, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"git {args[0]} failed: {done.stderr.decode(errors='replace')[-500:]}")
    return done.stdout.decode(errors="replace").strip()


def name_of(number: int) -> str:
    folder = number // FILES_PER_FOLDER
    return f"src/part{folder // 50:02d}/module{folder % 50:02d}/file{number:06d}.py"


def make(path: Path, *, files: int, commits: int = 1) -> Path:
    """A repository with `files` files and a history of `commits`, each after the first changing
    20 of them; its working tree is not checked out (`git worktree` and clones do that)."""
    path.mkdir(parents=True)
    git(path, "init", "-q", "-b", "main", ".")
    stream = b"".join(_stream(files, commits))
    git(path, "fast-import", "--quiet", stdin=stream)
    git(path, "repack", "-adq")
    return path


def advance(path: Path, *, files: int) -> None:
    """One more commit on main, of `files` changed files."""
    changes = b"".join(
        b"M 100644 inline %s\n" % name_of(number).encode() + _data(b"changed\n")
        for number in range(files)
    )
    head = b"commit refs/heads/main\ncommitter Bench <bench@localhost> 1800000000 +0000\n"
    stream = head + _data(b"more") + b"from refs/heads/main^0\n" + changes
    git(path, "fast-import", "--quiet", stdin=stream)


def _stream(files: int, commits: int) -> Iterator[bytes]:
    for version in range(commits):
        changed = range(files) if not version else range(version * 7 % files, files, files // 20)
        yield b"commit refs/heads/main\ncommitter Bench <bench@localhost> %d +0000\n" % (
            1_700_000_000 + version * 60
        )
        yield _data(b"version %d" % version)
        for number in changed:
            yield b"M 100644 inline %s\n" % name_of(number).encode()
            yield _data((b"# file %d, version %d\n" % (number, version)) + LINE * (number % 40 + 1))
        yield b"\n"


def _data(content: bytes) -> bytes:
    return b"data %d\n%s\n" % (len(content), content)
