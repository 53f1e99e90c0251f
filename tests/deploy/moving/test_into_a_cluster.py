"""An installation moves into a cluster and out of it: a backup is brought back by the containers of
the chart's job, and a stack goes on with what they made; that of its CronJob becomes a laptop's
(docs/deploy/kubernetes.md, "A move into the cluster" and "Backups").

The backup is a laptop's here, and a compose installation's in tests/deploy/live.
"""

import os
import subprocess
from pathlib import Path

import pytest
from docker_lab import git
from job_lab import NO_MODEL, Job, end, is_proven, job
from stack_lab import WFHUB, Stack, start

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="each container runs as a uid of its own"),
]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    repo = tmp_path / "repo"
    repo.mkdir()
    git("init", "-q", "-b", "main", cwd=repo)
    (repo / "README.md").write_text("colour\n")
    git("add", "-A", cwd=repo)
    git("commit", "-q", "-m", "first", cwd=repo)
    return repo


def a_task(stack: Stack, repository: Path) -> dict[str, str]:
    command = "sh -c 'sed -i s/colour/color/ README.md'"
    code, done, said = stack.run("--repo", str(repository), "--agent-cmd", command)
    assert code == 0, said
    return done


def refused(each: Job, container: str) -> str:
    done = each.run(container)
    assert done.returncode != 0
    return done.stderr


def test_the_job_restores_once_and_what_was_proven_still_verifies(
    tmp_path: Path, repository: Path
) -> None:
    tmp_path.chmod(0o755)
    passphrase, file = tmp_path / "passphrase", tmp_path / "kept.wfhub"
    passphrase.write_text("correct horse battery staple\n")
    first = start(tmp_path / "first", LLM_BASE_URL=NO_MODEL)
    try:
        done = a_task(first, repository)
        kept = first.wfhub("backup", str(file), f"--passphrase-file={passphrase}")
        assert kept.returncode == 0, kept.stderr
    finally:
        end(first)

    with job(tmp_path / "job", file, passphrase) as each, each.gone_on_with() as second:
        is_proven(second, done, tmp_path)
        out = each.backed_up()
        a_task(second, repository)
        # The pod is made anew: each of its containers is said again.
        each.succeed("keys", "secrets")
        assert "restored before: nothing was done" in each.run("restore").stderr
        each.succeed("restore", "database")
        is_proven(second, done, tmp_path)
        another_backup_is_refused(each, second, tmp_path, passphrase)
    is_a_laptops(out, done, tmp_path, passphrase)


def is_a_laptops(file: Path, done: dict[str, str], folder: Path, passphrase: Path) -> None:
    data = folder / "laptop"
    argv = [WFHUB, "restore", str(file), "--data", str(data), f"--passphrase-file={passphrase}"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    third = start(data, LLM_BASE_URL=NO_MODEL)
    try:
        is_proven(third, done, folder)
    finally:
        end(third)


def another_backup_is_refused(each: Job, stack: Stack, folder: Path, passphrase: Path) -> None:
    """Of the same installation, so that the keys fit: the database is not empty."""
    later = folder / "later.wfhub"
    secret = f"--passphrase-file={passphrase}"
    kept = stack.wfhub("backup", str(later), secret, "--database-url", each.database_url)
    assert kept.returncode == 0, kept.stderr
    later.replace(each.volume("backup") / "hub.wfhub")
    assert each.run("keys").returncode == 0
    assert "into an empty database only, and nothing was changed" in refused(each, "restore")
    (each.volume("passphrase") / "passphrase").write_text("another passphrase\n")
    assert "does not open this backup's keys" in refused(each, "keys")
