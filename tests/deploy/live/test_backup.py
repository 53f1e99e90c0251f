"""The backups of docs/deploy/compose.md, word for word: into one file while everything runs, and
stopped, volume by volume; each is restored after everything was removed."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from deploy_tools import ROOT
from docker_lab import Site
from job_lab import is_proven, job

pytestmark = pytest.mark.timeout(1500)


def commands(heading: str) -> str:
    """The shell commands of the page that follow the sentence with `heading` in it."""
    page = (ROOT / "docs" / "deploy" / "compose.md").read_text()
    after = page[page.index(heading) :]
    found = re.search(r"\n\n((?:    .*\n)+)", after)
    assert found is not None
    return re.sub(r"(?m)^    ", "", found.group(1))


def a_task_that_succeeds(site: Site, repository: str) -> dict[str, Any]:
    site.repository(repository)
    done = site.wfhub_json(
        *("run", "--repo", f"mount:{repository}", "--prompt", "x"),
        *("--agent-cmd", "sh -c 'echo kept > kept.txt'"),
    )
    assert done["state"] == "succeeded", done
    return done


def is_known_and_proven(site: Site, done: dict[str, Any]) -> None:
    shown = site.wfhub("status", done["task_id"], "--json")
    assert done["commit"] in shown.stdout, shown.stderr
    assert site.wfhub("proof", "verify", done["proof_id"]).returncode == 0
    logs = site.wfhub("logs", done["task_id"])  # a blob
    assert logs.returncode == 0, logs.stderr


def typed(site: Site, script: str) -> None:
    """Line by line, where `.env` is."""
    for line in script.splitlines():
        words = shlex.split(line)
        if words[:2] == ["docker", "compose"]:
            ran = site.compose(*words[2:])
        else:
            ran = subprocess.run(
                ["bash", "-euc", line], cwd=site.folder, capture_output=True, text=True
            )
        assert ran.returncode == 0, f"{line}\n{ran.stdout}{ran.stderr}"


def test_one_file_is_made_while_everything_runs_and_restored_into_empty_volumes(
    site: Site,
) -> None:
    done = a_task_that_succeeds(site, "kept-in-a-file")
    typed(site, commands("**A backup, while everything runs**"))
    assert (site.folder / "backups" / "hub.wfhub").stat().st_mode & 0o077 == 0
    assert site.compose("down", "-v").returncode == 0
    typed(site, commands("It is restored, as is one of"))
    is_known_and_proven(site, done)
    a_task_that_succeeds(site, "after-the-restore")


def test_a_backup_of_compose_comes_into_a_cluster_and_its_proofs_verify(
    site: Site, tmp_path: Path
) -> None:
    """By the containers of the chart's job, run as processes (job_lab)."""
    tmp_path.chmod(0o755)
    done = a_task_that_succeeds(site, "on-its-way")
    backups = site.folder / "backups"
    backups.mkdir(exist_ok=True)
    (backups / "passphrase").write_text("correct horse battery staple\n")
    typed(
        site,
        "docker compose run --rm backup backup /backups/moves.wfhub"
        " --passphrase /backups/passphrase",
    )
    file = backups / "moves.wfhub"
    with job(tmp_path / "job", file, backups / "passphrase") as each, each.gone_on_with() as stack:
        is_proven(stack, done, tmp_path)


def test_what_was_backed_up_is_there_after_everything_was_removed(
    site: Site, tmp_path: Path
) -> None:
    done = a_task_that_succeeds(site, "backed-up")
    assert site.compose("down").returncode == 0

    def shell(script: str) -> None:
        copies = [line for line in script.splitlines() if not line.startswith("docker compose")]
        ran = subprocess.run(
            ["bash", "-euc", "\n".join(copies)],
            env=site.host.env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, ran.stderr

    shell(commands("For that stop first"))
    assert {path.stem for path in tmp_path.glob("*.tar")} >= {"state", "postgres", "proofs"}
    assert site.compose("down", "-v").returncode == 0
    assert site.compose("up", "--no-start", "--no-build").returncode == 0
    shell(commands("To restore those"))
    site.up()
    is_known_and_proven(site, done)
