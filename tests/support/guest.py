"""A machine of our own for tests: Linux as a program (user-mode-linux) that has what ours lacks.

The root is a Debian from packages (`tree`), read-only through hostfs; what the guest writes lies on
a disk of its own (an ext4 image), mounted as an overlay's upper layer and at /disk. This machine's
files are at /host, read-only, and the repository, its virtual environment and its Python where they
are here; /out is the caller's folder. No network leaves it, no device of this machine is in it.
User-mode-linux runs at the processor's own speed, so that clocks and limits mean what they say; it
has one core. Needs root (for the owners of files) and debootstrap. DEPLOY_GUEST_ROOT, when set,
keeps the Debian for the next time.
"""

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import deploy_needs

ROOT = Path(__file__).parents[2]
SUITE = "bookworm"
PACKAGES = (
    *(
        "user-mode-linux",
        "kmod",
        "iproute2",
        "procps",
        "git",
        "attr",
        "e2fsprogs",
        "ca-certificates",
    ),
    *("nfs-kernel-server", "nfs-common", "nfs-ganesha", "nfs-ganesha-vfs", "samba", "cifs-utils"),
    *("docker.io", "iptables"),
    # What a Python that was built on such a Debian may be linked with.
    *("libssl3", "libffi8", "libsqlite3-0", "libbz2-1.0", "liblzma5", "libreadline8", "libexpat1"),
)
MODULES = Path("usr/lib/uml/modules")
DISK_BYTES = 8 * 1024**3  # sparse
MEMORY = "2048M"
READY, ENDED = "guest: up", "guest: ended "
_FIRST = """#!/bin/sh
mount -t proc proc /proc
mount -t hostfs -o $OUT none /out
. /out/init.sh
"""
# What runs this repository's tests in a guest, with the environment for it; files follow.
PYTEST = (
    *(sys.executable, "-m", "pytest", "-q", "-rs", "--color=no", "-p", "no:cacheprovider"),
    *("-p", "pytest_asyncio", "-p", "pytest_timeout", "--basetemp", "/disk/tmp/pytest"),
)
ENV = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TMPDIR": "/disk/tmp",
}
_INIT = Path(__file__).with_name("guest_init.sh")


def missing() -> str:
    """Why no guest can be made here; empty: one can."""
    return deploy_needs.missing(deploy_needs.GUEST)


def _kept() -> Path | None:
    kept = os.environ.get("DEPLOY_GUEST_ROOT", "")
    return Path(kept) if kept else None


@contextmanager
def tree() -> Iterator[Path]:
    """A Debian with file servers and a kernel that is a program."""
    kept = _kept()
    if kept and (kept / "wfhub/init").exists():
        assert _made_of(kept).exists(), f"{kept} was made of other packages: remove it"
        yield kept
        return
    made = kept or Path(tempfile.mkdtemp(prefix="wfhub-guest-"))
    try:
        _make(made)
        yield made
    finally:
        if kept is None:
            shutil.rmtree(made, ignore_errors=True)


def _made_of(root: Path) -> Path:
    """A file that is there when it was made of just these packages."""
    return root / "wfhub" / hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()


def _make(root: Path) -> None:
    argv = ["debootstrap", "--variant=minbase", SUITE, str(root)]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    policy = root / "usr/sbin/policy-rc.d"  # no server starts where it is only installed
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    for name in ("etc/resolv.conf", "etc/apt/sources.list"):
        if Path("/", name).exists():
            shutil.copyfile(Path("/", name), root / name)
    install = ["apt-get", "-qq", "-y", "--no-install-recommends", "install", *PACKAGES]
    for argv in (["apt-get", "-qq", "update"], install, ["apt-get", "clean"]):
        subprocess.run(
            ["chroot", root, *argv],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    (root / "lib/modules").mkdir(exist_ok=True)
    for version in (root / MODULES).iterdir():
        (root / "lib/modules" / version.name).symlink_to(f"/{MODULES}/{version.name}")
    for name in ("wfhub", "disk", "host", "out"):
        (root / name).mkdir()
    _made_of(root).touch()
    (root / "wfhub/init").write_text(_FIRST)
    (root / "wfhub/init").chmod(0o755)


def disk(path: Path) -> Path:
    """An empty ext4 image."""
    with path.open("wb") as f:
        f.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True)
    return path


@dataclass
class Guest:
    """One that runs: `process` ends with it. What it prints is in `console`."""

    process: subprocess.Popen[bytes]
    console: Path

    def ended(self, timeout_s: float) -> int:
        """The script's exit code. Raises: AssertionError with the console when there is none."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"the guest took more than {timeout_s} s:\n{self.tail()}"
            ) from None
        for line in reversed(self.console.read_text(errors="replace").splitlines()):
            if line.startswith(ENDED):
                return int(line.removeprefix(ENDED))
        raise AssertionError(f"the guest ended without its script's end:\n{self.tail()}")

    def tail(self) -> str:
        return self.console.read_text(errors="replace")[-6000:]

    def kill(self) -> None:
        """As when the power fails: what it had not written to its disk is lost."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def booted(
    root: Path,
    script: Sequence[str],
    *,
    folder: Path,
    image: Path | None = None,
    env: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Iterator[Guest]:
    """A guest that runs `script` (an argv, in the repository) and ends with it. `folder` gets the
    console and is the guest's /out; `image` is its disk, a new one when there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    image = image or disk(folder / "disk.img")
    prefix = Path(sys.base_prefix).resolve()
    (folder / "start.sh").write_text(
        "\n".join(
            [
                *(f"export {name}={shlex.quote(value)}" for name, value in (env or {}).items()),
                f"cd {shlex.quote(str(ROOT))}",
                shlex.join(script),
                "",
            ]
        )
    )
    shutil.copyfile(_INIT, folder / "init.sh")
    seen = [path for path in (ROOT, prefix) if not path.is_relative_to("/usr")]
    (folder / "seen").write_text("".join(f"{path}\n" for path in seen))
    argv = [
        *(str(root / "usr/bin/linux.uml"), f"mem={MEMORY}", f"ubd0={image}"),
        *("rootfstype=hostfs", f"rootflags={root}", "root=/dev/root", "ro", "quiet"),
        *("con=null", "con0=null,fd:1", f"uml_dir={folder}", *options),
        *("init=/wfhub/init", f"OUT={folder}"),
    ]
    console = folder / "console"
    with console.open("wb") as out:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    running = Guest(process, console)
    try:
        yield running
    finally:
        if process.poll() is None:
            running.kill()
