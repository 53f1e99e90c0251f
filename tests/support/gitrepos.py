"""Repositories made with C git, for tests: no user or system configuration takes part."""

import os
import shutil
import stat
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SANDBOX_UID = 64001
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LANG": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "ann@example.com",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@example.com",
    "GIT_AUTHOR_DATE": "2024-01-02T03:04:05Z",
    "GIT_COMMITTER_DATE": "2024-01-02T03:04:05Z",
}


def git(
    cwd: Path, *args: str | bytes | Path, stdin: bytes = b"", codes: tuple[int, ...] = (0,)
) -> str:
    """Standard output, stripped. Fails with git's own words."""
    done = subprocess.run(
        ["git", *args], cwd=cwd, env=ENVIRONMENT, input=stdin, capture_output=True, check=False
    )
    assert done.returncode in codes, f"git {args}: {done.stderr.decode()}"
    return done.stdout.decode("utf-8", "surrogateescape").strip()


def write(top: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def make(path: Path, files: dict[str, bytes], *, bare: bool = False) -> Path:
    """A repository with one commit on `main`."""
    work = path.with_name(path.name + "-work") if bare else path
    work.mkdir(parents=True)
    git(work, "init", "-q", "-b", "main")
    write(work, files)
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "first")
    if bare:
        # Not by `clone`, which refuses what is another's, as all is on SMB, whatever it is told.
        shutil.copytree(work / ".git", path)
        (path / "index").unlink()
        git(path, "config", "core.bare", "true")
    return path


def raw_tree(cwd: Path, entries: list[tuple[str, str, str]]) -> str:
    """A tree object as given (mode, name, id), checked by nobody; returns its id."""
    raw = b"".join(
        mode.encode() + b" " + name.encode() + b"\0" + bytes.fromhex(oid)
        for mode, name, oid in entries
    )
    return git(cwd, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", stdin=raw)


def chown_tree(top: Path, uid: int) -> None:
    if os.geteuid() != 0:
        return
    os.chown(top, uid, uid)
    for folder, folders, files in os.walk(top):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), uid, uid, follow_symlinks=False)


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that other uids can reach, unlike pytest's own. SHARE_AT, when set, is where."""
    top = Path(tempfile.mkdtemp(prefix="wfhub-test-", dir=os.environ.get("SHARE_AT")))
    top.chmod(0o755)
    try:
        yield top
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", top], check=False, capture_output=True)
        shutil.rmtree(top, ignore_errors=True)


def as_sandbox_uid(work: Callable[[], None]) -> None:
    """Run `work` in a child process at an unprivileged uid; its failure is ours."""
    if os.geteuid() != 0:
        work()
        return
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
            os.setresuid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
            os.chdir("/")
            work()
            code = 0
        except BaseException:  # noqa: BLE001  # the child must not go on as a second pytest
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "it failed at the unprivileged uid; see above"


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
