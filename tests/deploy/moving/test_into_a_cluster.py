"""An installation moves into a cluster: a backup is brought back by the containers of the chart's
job, and a stack goes on with what they made (docs/deploy/kubernetes.md, "A move into the cluster").

The backup is a laptop's here, and a compose installation's in tests/deploy/live.
"""

import os
import signal
from pathlib import Path

import pytest
from docker_lab import git
from job_lab import Job, job
from stack_lab import Stack, start

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="each container runs as a uid of its own"),
]
NOWHERE = "http://127.0.0.1:9"  # the discard port: no model server is there


def ended(stack: Stack) -> None:
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(60) == 0


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
    first = start(tmp_path / "first", LLM_BASE_URL=NOWHERE)
    try:
        done = a_task(first, repository)
        kept = first.wfhub("backup", str(file), f"--passphrase-file={passphrase}")
        assert kept.returncode == 0, kept.stderr
    finally:
        ended(first)

    with job(tmp_path / "job", file, passphrase) as each:
        for name in ("keys", "secrets"):
            ran = each.run(name)
            assert ran.returncode == 0, ran.stderr
        with each.postgres():
            for name in ("restore", "database"):
                ran = each.run(name)
                assert ran.returncode == 0, ran.stderr
            second = start(
                each.data_directory(), "--database-url", each.database_url, LLM_BASE_URL=NOWHERE
            )
            try:
                proven(second, done, tmp_path)
                a_task(second, repository)
                # The pod is made anew: each of its containers is said again.
                for name in ("keys", "secrets", "restore", "database"):
                    ran = each.run(name)
                    assert ran.returncode == 0, ran.stderr
                    if name == "restore":
                        assert "restored before: nothing was done" in ran.stderr
                proven(second, done, tmp_path)
                another_backup_is_refused(each, second, tmp_path, passphrase)
            finally:
                ended(second)


def proven(stack: Stack, done: dict[str, str], folder: Path) -> None:
    proof = folder / "proof.json"
    exported = stack.wfhub("proof", "export", done["proof_id"], "-o", str(proof))
    assert exported.returncode == 0, exported.stderr
    verified = stack.wfhub("proof", "verify", str(proof))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    logs = stack.wfhub("logs", done["task_id"])  # a blob
    assert logs.returncode == 0, logs.stderr


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
