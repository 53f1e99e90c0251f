"""Docker for tests: two daemons of our own, the images, and the compose file as a user runs it.

The builder has this machine's network (packages come by pip and apt) and no bridges. The host has a
network namespace of its own, so that its bridges and rules touch nobody else's and nothing that
runs there reaches the world. Both keep everything below one folder, and end with the test.
Needs root and the Debian packages docker.io, debootstrap and iptables.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import deploy_needs
from deploy_tools import ROOT, tool

COMPOSE = ROOT / "deploy" / "compose"
BASE = "wfhub-test-base:bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
IDENTITY = [
    part
    for setting in ("safe.directory=*", "user.name=t", "user.email=t@example.org")
    for part in ("-c", setting)
]
TARGETS = (
    *("api", "scheduler", "proof-store", "llm-gateway", "agent-runner"),
    *("admin", "nats", "postgres"),
)
START_S_MAX, STOP_S_MAX = 60, 60


def check_tools() -> None:
    assert not (why := deploy_needs.missing(deploy_needs.DOCKER)), why


def docker_client() -> str:
    """Debian's beside its daemon, if there are several: it builds without a plugin."""
    return "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"


@dataclass
class Daemon:
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def env(self) -> dict[str, str]:
        socket = f"unix://{self.folder}/docker.sock"
        return {**os.environ, "DOCKER_HOST": socket, "DOCKER_BUILDKIT": "1"}

    def docker(self, *arguments: str, timeout_s: float = 600) -> str:
        """Standard output and error. Raises: AssertionError with it when it failed."""
        done = self.tried(*arguments, timeout_s=timeout_s)
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"docker {' '.join(arguments)}: {said[-3000:]}"
        return said

    def tried(self, *arguments: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [docker_client(), *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd=ROOT,
        )

    def inside(self, *argv: str) -> list[str]:
        """The argv that runs in the daemon's network."""
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", "--", *argv]


@contextmanager
def daemon(folder: Path, *, own_network: bool, data: Path | None = None) -> Iterator[Daemon]:
    """`data`: where its images and volumes stay, instead of nowhere."""
    folder.mkdir(parents=True)
    data = data or folder / "data"
    argv = [
        *("dockerd", "-H", f"unix://{folder}/docker.sock", "--data-root", str(data)),
        *("--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"),
    ]
    if own_network:
        script = 'ip link set lo up; exec "$@"'
        argv = ["unshare", "--net", "--", "sh", "-c", script, "sh", *argv]
    else:
        argv += ["--bridge", "none", "--iptables=false"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/", start_new_session=True)
    running = Daemon(folder, process)
    try:
        deadline = time.monotonic() + START_S_MAX
        while running.tried("version").returncode:
            assert process.poll() is None, (folder / "log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            time.sleep(0.2)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        finally:
            with_nothing_mounted(folder)
            shutil.rmtree(folder, ignore_errors=True)


def with_nothing_mounted(folder: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)


def import_base(builder: Daemon, folder: Path) -> None:
    """A Debian with Python, from packages: no image can be pulled here. DEPLOY_BASE_TAR, when set,
    keeps it for the next time."""
    kept = os.environ.get("DEPLOY_BASE_TAR", "")
    archive = Path(kept) if kept else folder / "base.tar"
    if not archive.exists():
        root = folder / "base"
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        # Builds in it trust whom this machine trusts.
        shutil.copyfile(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        for cached in (root / "var/cache/apt/archives").glob("*.deb"):
            cached.unlink()
        subprocess.run(["tar", "-C", root, "-cf", archive, "."], check=True)
        shutil.rmtree(root)
    builder.docker("import", str(archive), BASE)


def build(builder: Daemon, target: str, *options: str, tag: str = "") -> str:
    tag = tag or f"workflow-hub/{target}:0.1.0"
    builder.docker(
        *("build", "--network", "host", "--build-arg", f"BASE_IMAGE={BASE}"),
        *("-f", "deploy/compose/Dockerfile", "--target", target, "-t", tag),
        *(*options, "."),
    )
    return tag


def hand_on(builder: Daemon, host: Daemon, tags: list[str]) -> None:
    saved = builder.folder.parent / "images.tar"
    builder.docker("save", "-o", str(saved), *tags)
    host.docker("load", "-i", str(saved))
    saved.unlink()


def git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["git", *IDENTITY, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class Site:
    """An installation: compose.yaml with an .env, a folder of workspaces, as a user has them."""

    host: Daemon
    folder: Path
    env_lines: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=lambda: ["compose.yaml"])
    project: str = "workflow-hub"

    def make(self) -> None:
        for name in ("workspaces", "config"):
            (self.folder / name).mkdir(parents=True)
            os.chown(self.folder / name, 1000, 1000)
        lines = [
            f"WORKSPACES={self.folder}/workspaces",
            f"CONFIG={self.folder}/config",
            f"BACKUPS={self.folder}/backups",
            *self.env_lines,
        ]
        (self.folder / "env").write_text("\n".join(lines) + "\n")

    def repository(self, name: str) -> Path:
        """A new one among the workspaces, the runner's own."""
        repo = self.folder / "workspaces" / name
        repo.mkdir()
        git("init", "-q", "-b", "main", cwd=repo)
        (repo / "README.md").write_text("colour\n")
        git("add", "-A", cwd=repo)
        git("commit", "-q", "-m", "first", cwd=repo)
        subprocess.run(["chown", "-R", "1000:1000", str(repo)], check=True)
        return repo

    def compose(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(tool("docker-compose"), "-p", self.project),
                *(part for file in self.files for part in ("-f", str(COMPOSE / file))),
                *("--env-file", str(self.folder / "env")),
                *arguments,
            ],
            env=self.host.env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def up(self, *options: str) -> float:
        """Seconds until everything is healthy."""
        began = time.monotonic()
        done = self.compose("up", "-d", "--no-build", "--wait", "--wait-timeout", "240", *options)
        assert done.returncode == 0, done.stderr[-3000:] + self.compose("logs", "--tail=20").stdout
        return time.monotonic() - began

    def wfhub(self, *arguments: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
        return self.compose("run", "--rm", "-T", "wfhub", *arguments, timeout_s=timeout_s)

    def wfhub_json(self, *arguments: str) -> dict[str, Any]:
        done = self.wfhub(*arguments, "--json")
        lines = done.stdout.strip().splitlines()
        assert lines, done.stderr
        return dict(json.loads(lines[-1]))

    def container(self, service: str) -> str:
        return f"{self.project}-{service}-1"

    def execute(self, service: str, *argv: str) -> subprocess.CompletedProcess[str]:
        return self.host.tried("exec", self.container(service), *argv, timeout_s=60)

    def python(self, service: str, code: str) -> str:
        """What a snippet in a service's container printed, its error included."""
        done = self.execute(service, "python", "-I", "-c", code)
        return done.stdout + done.stderr
