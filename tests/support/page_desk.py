"""Where a page of docs/deploy is typed: in a copy of our deploy/compose, on the site's daemon.

The site is down meanwhile, and keeps its volumes. The images are there already, since the daemon's
network ends at itself; and who types is root, so that pages' notes on another uid are followed.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy_tools import tool
from docker_lab import COMPOSE, Site

UID = 1000
PROJECT = {"COMPOSE_PROJECT_NAME": "page"}  # beside the site
LINE_S_MAX = 300.0
OWN_IDS = '"$(id -u)" "$(id -g)"'


@dataclass(frozen=True)
class Desk:
    site: Site
    here: Path
    home: Path

    def typed(self, lines: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """One after another; what the last said. Raises: AssertionError where one fails."""
        for line in lines:
            ran = self.tried(line)
            if ran.returncode:
                logs = self.compose("logs", "--tail=20", "agent-runner").stdout
                said = (ran.stdout + ran.stderr)[-3000:]
                raise AssertionError(f"{line}\n{said}\n{logs[-3000:]}")
        return ran

    def tried(
        self, line: str, *, timeout_s: float = LINE_S_MAX
    ) -> subprocess.CompletedProcess[str]:
        script = line.replace("docker compose", tool("docker-compose")).replace("sudo ", "")
        return self._run(["bash", "-euc", script], timeout_s)

    def compose(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._run([tool("docker-compose"), *words], LINE_S_MAX)

    def _run(self, argv: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.site.host.inside(*argv),
            cwd=self.here,
            env={**self.site.host.env, **PROJECT, "HOME": str(self.home)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )


def as_root(block: str) -> list[str]:
    """The lines of a page that begins where it leads to, without what this daemon cannot do."""
    block = block.replace(OWN_IDS, f"{UID} {UID}").replace('"$(id -u):$(id -g)"', f"{UID}:{UID}")
    first, *lines = block.replace("up -d --build", "up -d --no-build").splitlines()
    assert first == "cd deploy/compose"
    return lines


@contextmanager
def desk(site: Site, folder: Path) -> Iterator[Desk]:
    here, home = folder / "deploy" / "compose", folder / "home"
    shutil.copytree(COMPOSE, here, ignore=shutil.ignore_patterns("workspaces", ".env"))
    home.mkdir()
    before = site.compose("down")
    assert before.returncode == 0, before.stderr
    made = Desk(site, here, home)
    try:
        yield made
    finally:
        ended = made.compose("down", "-v", "--timeout", "5")
        site.up()
    assert ended.returncode == 0, ended.stderr
