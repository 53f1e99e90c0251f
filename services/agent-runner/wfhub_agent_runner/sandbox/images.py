"""Images: what a container's root is made of, unpacked once and shared by every run.

A rootless engine (Podman, as the runner's own uid, with a store of its own) fetches an image, or
reads it from an archive, and gives its files; from then on no engine is needed. What is in a root
belongs to the runner's uid; devices and setuid bits are left out.
Shape: RUNNER_HOME/images/<id>/{root/, about}. `about` is JSON, {digest, env}; a folder is complete
once it has that name. Names are the engine's: registry/path:tag, path@sha256:…, oci-archive:/file,
docker-archive:/file.
Raises: Rejected (image-*), whose message says what the engine said.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO

from wfhub_common.errors import Rejected
from wfhub_common.log import get_logger

from wfhub_agent_runner.removal import remove_tree
from wfhub_agent_runner.sandbox.arguments import GROUP, PASSWD

ENGINE_DEFAULT = "podman"
_DAEMONS = "docker"
PULL_S_MAX = 600.0
ENGINE_S_MAX = 120.0
ROOT_BYTES_MAX = 16 * 1024**3
ROOT_FILES_MAX = 2_000_000
SAID_CHARS = 400
NAME_CHARS_MAX = 300
_NAME = re.compile(r"(oci-archive:|docker-archive:)?[A-Za-z0-9/][A-Za-z0-9._/:@-]*")
_NO_NAMES = ("dir:", "docker-daemon:", "containers-storage:", "oci:", "ostree:", "sif:")
_ARCHIVES = ("oci-archive", "docker-archive")
_FOLDERS = ("etc", "tmp", "run", "proc", "dev", "sys", "home", "home/agent", "workspace")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

log = get_logger(__name__)


@dataclass(frozen=True)
class Image:
    """`digest`: of its manifest. `root`: its files. `env`: what it sets for its programs."""

    name: str
    digest: str
    root: Path
    env: Mapping[str, str]


def archive_in(name: str) -> Path | None:
    """The file that an image is read from, if it is."""
    kind, colon, path = name.partition(":")
    return Path(path) if colon and kind in _ARCHIVES else None


class ImageStore:
    """The images of one runner; `engine` is podman's name or path, `env` what it finds in its
    environment besides (a proxy, REGISTRY_AUTH_FILE)."""

    def __init__(
        self,
        home: Path,
        engine: str = ENGINE_DEFAULT,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._home, self._env = home / "images", env
        self._engine = shutil.which(engine, path=_PATH)
        if self._engine is None:
            raise Rejected(
                "image-no-engine",
                f"there is no {engine} here, which fetches images: install podman, or set"
                " CONTAINER_ENGINE",
            )
        if Path(engine).name == _DAEMONS:
            raise Rejected(
                "image-engine-docker",
                f"{engine} speaks to a daemon of root's, and whoever may do that is root: save the"
                " image (docker save -o FILE NAME) and name it docker-archive:FILE, or use podman",
            )
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)

    def prepared(self, name: str) -> Image:
        """Blocks for as long as the engine takes. What was prepared before is taken when the
        engine cannot get it now."""
        if len(name) > NAME_CHARS_MAX or not _NAME.fullmatch(name) or name.startswith(_NO_NAMES):
            raise Rejected(
                "image-name",
                f"{name[:200]!r} cannot be the name of an image: write registry/path:tag,"
                " path@sha256:…, oci-archive:/file or docker-archive:/file",
            )
        last = self._home / f"name-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        try:
            folder = self._home / self._brought(name)
        except Rejected as e:
            if not last.exists():
                raise
            folder = self._home / last.read_text()
            log.warning("an image is used as it was before", image=name, error=e.message)
        last.write_text(folder.name)
        os.utime(folder)
        about = json.loads((folder / "about").read_text())
        return Image(name, about["digest"], folder / "root", about["env"])

    def keep_only(self, images: Iterable[Image]) -> None:
        """Removes every other root. Call it while nothing runs."""
        kept = {image.root.parent for image in images}
        for folder in self._home.iterdir():
            if folder.is_dir() and folder not in kept:
                remove_tree(folder)

    def _brought(self, name: str) -> str:
        """The image's id; its root is there."""
        with self._engine_folders() as (store, running):
            podman = _Podman(str(self._engine), store, running, self._env)
            image_id = podman.pulled(name)
            folder = self._home / image_id
            if not (folder / "about").exists():
                self._unpack(podman, image_id, folder)
            return image_id

    def _unpack(self, podman: "_Podman", image_id: str, folder: Path) -> None:
        fresh = folder.with_name(f".fresh-{secrets.token_hex(8)}")
        root = fresh / "root"
        root.mkdir(parents=True)
        try:
            digest, env = podman.about(image_id)
            podman.export(image_id, root)
            make_fit(root)
            (fresh / "about").write_text(json.dumps({"digest": digest, "env": env}))
            with contextlib.suppress(OSError):  # another one was first
                fresh.rename(folder)
        finally:
            if fresh.exists():
                remove_tree(fresh)

    @contextlib.contextmanager
    def _engine_folders(self) -> Iterator[tuple[Path, Path]]:
        """The engine's own store and its run-time folder, for as long as they are needed:
        afterwards the root is enough. The latter's name must be short for podman."""
        store = self._home / f".engine-{secrets.token_hex(8)}"
        store.mkdir(mode=0o700)
        running = Path(tempfile.mkdtemp(prefix="wfhub-", dir="/tmp"))
        try:
            yield store, running
        finally:
            with contextlib.suppress(OSError, ValueError):  # what keeps its namespaces
                os.kill(int((running / "pause.pid").read_text()), signal.SIGKILL)
            for folder in (store, running):
                remove_tree(folder)


class _Podman:
    def __init__(self, program: str, store: Path, running: Path, env: Mapping[str, str]) -> None:
        self._words = [
            *(program, "--root", str(store), "--runroot", str(running)),
            *("--tmpdir", str(running), "--events-backend", "none"),
            *("--cgroup-manager", "cgroupfs", "--storage-driver", "overlay"),
            # One uid is all there is: every file of an image becomes its own.
            *("--storage-opt", "overlay.ignore_chown_errors=true"),
        ]
        self._env = {"HOME": str(running), "XDG_RUNTIME_DIR": str(running), "PATH": _PATH, **env}

    def pulled(self, name: str) -> str:
        """The image's id."""
        lines = self._said(["pull", "--quiet", "--", name], PULL_S_MAX, name).split()
        return lines[-1].removeprefix("sha256:")

    def about(self, image_id: str) -> tuple[str, dict[str, str]]:
        told = json.loads(self._said(["image", "inspect", "--", image_id], ENGINE_S_MAX, image_id))
        pairs = [line.partition("=") for line in told[0]["Config"].get("Env") or []]
        return str(told[0]["Digest"]), {name: value for name, _, value in pairs}

    def export(self, image_id: str, root: Path) -> None:
        create = ["create", "--network", "none", "--", image_id, "/never-run"]
        container = self._said(create, ENGINE_S_MAX, image_id).split()[-1]
        with subprocess.Popen(
            [*self._words, "export", container],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._env,
            cwd="/",
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                unpack(process.stdout, root)
            except (tarfile.TarError, OSError) as e:
                process.kill()
                said = process.stderr.read().decode(errors="replace")[-SAID_CHARS:]
                raise Rejected("image-unpack", f"cannot unpack {image_id}: {e} {said}") from e

    def _said(self, words: list[str], timeout_s: float, name: str) -> str:
        try:
            ran = subprocess.run(
                [*self._words, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._env,
                cwd="/",
                timeout=timeout_s,
                check=True,
            )
        except subprocess.CalledProcessError as e:
            said = e.stderr.decode(errors="replace").strip()[-SAID_CHARS:]
            raise Rejected("image-missing", f"cannot get the image {name}: {said}") from e
        except (OSError, subprocess.SubprocessError) as e:
            raise Rejected("image-engine", f"{self._words[0]} failed: {e}") from e
        return ran.stdout.decode()


def unpack(archive: IO[bytes], root: Path) -> None:
    """A tar stream. Raises: TarError, OSError; also for what would leave `root`."""
    used, files = 0, 0
    with tarfile.open(fileobj=archive, mode="r|", errorlevel=1) as tar:
        # The checks are ours (Python before 3.11.4 has none): an image's links may point anywhere.
        tar.extraction_filter = lambda member, _: member
        for member in tar:
            used, files = used + member.size, files + 1
            if used > ROOT_BYTES_MAX or files > ROOT_FILES_MAX:
                most = f"{ROOT_BYTES_MAX} bytes or {ROOT_FILES_MAX} files"
                raise tarfile.TarError(f"it has more than {most}")
            if member.isdev():
                continue
            _check_inside(root, member.name)
            if member.islnk():
                _check_inside(root, member.linkname)
            member.mode = member.mode & 0o777 | (0o700 if member.isdir() else 0o400)
            tar.extract(member, root)


def _check_inside(root: Path, name: str) -> None:
    """Neither the path nor a link that was unpacked on the way to it may lead out."""
    real = os.path.realpath(os.path.join(root, os.path.dirname(name)))
    if name.startswith("/") or ".." in name.split("/") or not Path(real).is_relative_to(root):
        raise tarfile.TarError(f"{name[:200]!r} would lie outside of it")


def make_fit(root: Path) -> None:
    """What every container needs of a root: real folders where something is mounted, and the
    agent's name. (A link there could lead the stage astray.)"""
    for name in _FOLDERS:
        path = root / name
        if path.is_symlink() or not path.is_dir():
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            path.mkdir()
        path.chmod(0o755)
    for name, content in (("passwd", PASSWD), ("group", GROUP)):
        file = root / "etc" / name
        with contextlib.suppress(FileNotFoundError):
            file.unlink()
        file.write_text(content)
        file.chmod(0o644)
    hosts = root / "etc" / "hosts"
    if hosts.is_symlink() or not hosts.exists() or not hosts.stat().st_size:
        with contextlib.suppress(FileNotFoundError):
            hosts.unlink()
        hosts.write_text("127.0.0.1 localhost\n")
        hosts.chmod(0o644)
