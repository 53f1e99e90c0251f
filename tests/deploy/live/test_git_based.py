"""Option 3's page, typed: runners without a disk, and a repository on a host over https.

Other than on the page: the host's name, and who types is root, so that the page's note on another
uid is followed. The images are there already, since this daemon's network ends at itself.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pages
import pytest
from deploy_tools import ROOT, tool
from docker_lab import COMPOSE, Site, git

pytestmark = pytest.mark.timeout(1500)

UID = 1000
PROJECT = {"COMPOSE_PROJECT_NAME": "page"}  # beside the site, which keeps its volumes


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
    with git_host(site, tmp_path / "host") as host:
        made(repo)
        here = tmp_path / "deploy" / "compose"
        shutil.copytree(COMPOSE, here, ignore=shutil.ignore_patterns("workspaces", ".env"))
        given = tmp_path / "home" / "my"
        given.mkdir(parents=True)
        entry = {"match": f"https://{host['name']}", "username": host["user"]}
        (given / "known_hosts").write_text(f"git.example.org {host['key']}\n")
        (given / "git-credentials.json").write_text(
            json.dumps({"credentials": [{**entry, "password": host["password"]}]})
        )
        (here / "config" / "ca.pem").write_text(host["ca"])
        before = site.compose("down")
        assert before.returncode == 0, before.stderr
        try:
            (block, *_) = pages.blocks((ROOT / "docs" / "deploy" / "git-based.md").read_text())
            said = typed(site, here, tmp_path / "home", as_here(block, host["name"]))
            assert "succeeded" in said, said
            (branch,) = git("branch", "--list", "wfhub/*", cwd=repo).split()
            assert git("show", f"{branch}:README.md", cwd=repo) == "color"
            runners = docker_compose(site, here, "ps", "--format", "json", "agent-runner")
            assert runners.stdout.count('"healthy"') == 2, runners.stdout
        finally:
            ended = docker_compose(site, here, "down", "-v", "--timeout", "5")
            site.up()
        assert ended.returncode == 0, ended.stderr


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
    block = block.replace("git.example.org", host).replace("team/app", "team/app.git")
    block = block.replace('"$(id -u)" "$(id -g)"', f"{UID} {UID}")
    block = block.replace("up -d --build", "up -d --no-build")
    agent = "--agent-cmd \"sh -c 'sed -i s/colour/color/ README.md'\""  # there is no model here
    lines = [re.sub(r"--prompt .*", rf"--prompt x {agent}", line) for line in block.splitlines()]
    up = next(n for n, line in enumerate(lines) if " up " in line)
    mine = ["echo GIT_CA_FILE=/etc/wfhub/ca.pem >> .env", f"chown -R {UID}:{UID} config"]
    return [*lines[:up], *mine, *lines[up:]]


def typed(site: Site, here: Path, home: Path, lines: list[str]) -> str:
    """The last one's output."""
    assert lines[0] == "cd deploy/compose"
    said = ""
    for line in lines[1:]:
        script = line.replace("docker compose", f"{tool('docker-compose')}")
        ran = subprocess.run(
            ["bash", "-euc", script],
            cwd=here,
            env={**site.host.env, **PROJECT, "HOME": str(home)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )
        said = ran.stdout + ran.stderr
        if ran.returncode:
            logs = docker_compose(site, here, "logs", "--tail=20", "agent-runner").stdout
            raise AssertionError(f"{line}\n{said[-3000:]}\n{logs[-3000:]}")
    return said


def docker_compose(site: Site, here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("docker-compose"), *words],
        cwd=here,
        env={**site.host.env, **PROJECT},
        capture_output=True,
        text=True,
        timeout=300,
    )
