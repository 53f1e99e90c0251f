"""Option 1's page, typed: from nothing to a task's branch, its token by curl, and its life.

Other than on the page: `git clone` is of a repository here, the task has a command instead of a
model, logs are followed for a while only, nothing is built, and what page_desk says. Its backups
are typed by test_backup.py.
"""

import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import TimeoutExpired

import pages
import pytest
from deploy_tools import ROOT
from docker_lab import Site, git
from page_desk import UID, Desk, as_root, desk

pytestmark = pytest.mark.timeout(1500)

API = "http://127.0.0.1:8642"
FOLLOWED_S = 5.0


@pytest.fixture
def typing(site: Site, tmp_path: Path) -> Iterator[Desk]:
    with desk(site, tmp_path) as at:
        yield at


def made(repo: Path) -> str:
    repo.mkdir(parents=True)
    git("init", "-q", "-b", "main", cwd=repo)
    (repo / "README.md").write_text("colour\n")
    (repo / "Makefile").write_text("test:\n\tgrep -qx color README.md\n")
    git("add", "-A", cwd=repo)
    git("commit", "-q", "-m", "first", cwd=repo)
    return str(repo)


def test_the_page_of_the_single_server_option(typing: Desk, tmp_path: Path) -> None:
    first, task, token, *others = pages.blocks((ROOT / "docs/deploy/compose.md").read_text())
    (life,) = [block for block in others if "docker compose ps" in block]
    typing.typed(as_root(first))

    clone, run = task.splitlines()
    assert clone.startswith("git clone https://git.example.org/team/app ")
    origin = made(tmp_path / "origin" / "app")
    typing.typed(
        [
            clone.replace("https://git.example.org/team/app", origin),
            f"chown -R {UID}:{UID} workspaces",  # who is root gives them away
        ]
    )
    prompt = "--prompt 'Fix the failing test'"
    assert prompt in run
    edit = shlex.quote("sh -c 'sed -i s/colour/color/ README.md'")
    # The image that is here was built without RUNNER_PACKAGES.
    verify = shlex.quote("grep -qx color README.md")
    run = run.replace(prompt, f"{prompt} --agent-cmd {edit}").replace("'make test'", verify)
    said = typing.typed([f"{run} --json"])
    done = json.loads(said.stdout.strip().splitlines()[-1])
    assert (done["state"], done["verdict"]) == ("succeeded", "passed"), done
    repo = typing.here / "workspaces" / "app"
    assert git("show", f"{done['branch']}:README.md", cwd=repo) == "color"

    bearer = f"Authorization: Bearer {typing.typed([token]).stdout.strip()}"
    ask = f"curl -fsS -H {shlex.quote(bearer)} {API}/v1/tasks/{done['task_id']}"
    assert json.loads(typing.typed([ask]).stdout)["state"] == "succeeded"

    for line in life.splitlines():
        if " logs -f " in line:
            with suppress(TimeoutExpired):
                typing.tried(line, timeout_s=FOLLOWED_S)
        elif "build" not in line:
            typing.typed([line])
    again = json.loads(typing.typed([ask]).stdout)
    assert again["proof_id"] == done["proof_id"], again
    typing.typed([f"docker compose run --rm wfhub proof verify {done['proof_id']}"])
