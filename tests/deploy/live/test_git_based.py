"""Option 3's page, typed: runners without a disk, and a repository on a host over https.

Other than on the page: the host's name, the authority of its certificate, and what page_desk says.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pages
import pytest
from deploy_tools import ROOT
from docker_lab import Site, git
from page_desk import UID, as_root, desk

pytestmark = pytest.mark.timeout(1500)


@contextmanager
def git_host(site: Site, folder: Path) -> Iterator[dict[str, Any]]:
    """Where containers reach it: at the daemon's own bridge."""
    folder.mkdir()
    told = subprocess.run(
        site.host.inside("ip", "-json", "addr", "show", "docker0"), capture_output=True, text=True
    )
    address = json.loads(told.stdout)[0]["addr_info"][0]["local"]
    script = Path(__file__).with_name("git_host.py")
    host = subprocess.Popen(
        site.host.inside(sys.executable, str(script), str(folder), address),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support")},
    )
    try:
        assert host.stdout is not None
        yield json.loads(host.stdout.readline())
    finally:
        host.communicate()


def test_the_page_of_the_git_based_option(site: Site, tmp_path: Path) -> None:
    repo = tmp_path / "host" / "team" / "app.git"
    with git_host(site, tmp_path / "host") as host, desk(site, tmp_path) as at:
        made(repo)
        given = at.home / "my"
        given.mkdir()
        entry = {"match": f"https://{host['name']}", "username": host["user"]}
        (given / "known_hosts").write_text(f"git.example.org {host['key']}\n")
        (given / "git-credentials.json").write_text(
            json.dumps({"credentials": [{**entry, "password": host["password"]}]})
        )
        (at.here / "config" / "ca.pem").write_text(host["ca"])
        (block, *_) = pages.blocks((ROOT / "docs" / "deploy" / "git-based.md").read_text())
        said = at.typed(as_here(block, host["name"]))
        assert "succeeded" in said.stdout + said.stderr, said
        (branch,) = git("branch", "--list", "wfhub/*", cwd=repo).split()
        assert git("show", f"{branch}:README.md", cwd=repo) == "color"
        runners = at.compose("ps", "--format", "json", "agent-runner")
        assert runners.stdout.count('"healthy"') == 2, runners.stdout


def made(repo: Path) -> None:
    repo.mkdir(parents=True)
    git("init", "-q", "--bare", "-b", "main", cwd=repo)
    git("config", "http.receivepack", "true", cwd=repo)
    work = repo.with_name("work")
    git("clone", "-q", str(repo), str(work), cwd=repo.parent)
    (work / "README.md").write_text("colour\n")
    git("add", "-A", cwd=work)
    git("commit", "-q", "-m", "first", cwd=work)
    git("push", "-q", "origin", "HEAD:main", cwd=work)


def as_here(block: str, host: str) -> list[str]:
    lines = as_root(block.replace("git.example.org", host).replace("team/app", "team/app.git"))
    agent = "--agent-cmd \"sh -c 'sed -i s/colour/color/ README.md'\""  # there is no model here
    lines = [re.sub(r"--prompt .*", rf"--prompt x {agent}", line) for line in lines]
    up = next(n for n, line in enumerate(lines) if " up " in line)
    mine = ["echo GIT_CA_FILE=/etc/wfhub/ca.pem >> .env", f"chown -R {UID}:{UID} config"]
    return [*lines[:up], *mine, *lines[up:]]
