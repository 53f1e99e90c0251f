"""A stack moved: kept in one file while it runs, brought back elsewhere, and worked with there."""

import json
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Stack, git, start

PASSPHRASE = "correct horse battery staple"
ARGUMENTS = ("--agent-cmd", "sh -c 'sed -i s/colour/color/ README.md'")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = start(tmp_path_factory.mktemp("first") / "data", LLM_BASE_URL="http://127.0.0.1:9")
    yield running
    ended(running)


def ended(stack: Stack) -> None:
    stack.process.send_signal(signal.SIGINT)
    assert stack.process.wait(60) == 0


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    file = tmp_path / "passphrase"
    file.write_text(f"{PASSPHRASE}\n")
    return file


@pytest.mark.timeout(400)  # three starts of a stack
def test_a_stack_is_kept_while_it_runs_and_goes_on_elsewhere(
    first: Stack, repository: Path, tmp_path: Path, passphrase: Path
) -> None:
    code, done, progress = first.run("--repo", str(repository), *ARGUMENTS)
    assert code == 0, progress
    hook = json.loads(first.wfhub("webhook", "add", "https://hub.example.org/in", "--json").stdout)
    file = tmp_path / "kept.wfhub"
    secret = f"--passphrase-file={passphrase}"
    kept = first.wfhub("backup", str(file), f"--data={first.data}", secret, "--json")
    assert kept.returncode == 0, kept.stderr
    told = json.loads(kept.stdout)
    assert told["blobs"] >= 3
    assert file.stat().st_mode & 0o077 == 0
    again = first.wfhub("backup", str(file), f"--data={first.data}", secret)
    assert again.returncode != 0
    assert "never overwritten" in again.stderr
    assert first.wfhub("restore", str(file), secret, "--check").returncode == 0

    elsewhere = tmp_path / "elsewhere"
    brought = first.wfhub("restore", str(file), f"--data={elsewhere}", secret, "--json")
    assert brought.returncode == 0, brought.stderr
    assert json.loads(brought.stdout) == told

    second = start(elsewhere, LLM_BASE_URL="http://127.0.0.1:9")
    try:
        listed = json.loads(second.wfhub("status", done["task_id"], "--json").stdout)
        assert listed["state"] == "succeeded"
        proof = tmp_path / "proof.json"
        exported = second.wfhub("proof", "export", done["proof_id"], "-o", str(proof))
        assert exported.returncode == 0, exported.stderr
        verified = first.wfhub("proof", "verify", str(proof))  # by what was trusted before
        assert verified.returncode == 0, verified.stdout + verified.stderr
        tested = second.wfhub("webhook", "test", hook["webhook_id"], "--json").stdout
        assert json.loads(tested)["outcome"] != "secret-unopened", "its keys came with it"
        for word, says in (
            ("off", "1 webhooks, in clear"),
            ("on", "1 webhooks, sealed under key 1"),
        ):
            changed = second.wfhub("sealing", word, f"--data={elsewhere}")
            assert (changed.returncode, changed.stdout.strip()) == (0, says), changed.stderr
        logs = second.wfhub("logs", done["task_id"])  # a blob
        assert logs.returncode == 0, logs.stderr

        before = git("rev-parse", "HEAD", cwd=repository)
        code, new, progress = second.run("--repo", str(repository), *ARGUMENTS)
        assert code == 0, progress
        assert git("rev-parse", f"{new['branch']}^", cwd=repository) == before
    finally:
        ended(second)


@pytest.fixture
def kept(first: Stack, tmp_path: Path, passphrase: Path) -> Path:
    file = tmp_path / "kept.wfhub"
    done = first.wfhub(
        "backup", str(file), f"--data={first.data}", f"--passphrase-file={passphrase}"
    )
    assert done.returncode == 0, done.stderr
    return file


def test_no_secret_stands_in_a_backup(first: Stack, kept: Path) -> None:
    content = kept.read_bytes()
    assert b"PGDMP" not in content, "the database is sealed: a webhook's secret is in it"
    credentials = json.loads((first.data / "credentials.json").read_text())
    secrets = [credentials["admin_token"]]
    secrets += [
        value for each in ("nats", "database", "tokens") for value in credentials[each].values()
    ]
    secrets += (first.data / "signing" / "key.pem").read_text().splitlines()[1:2]
    assert [secret for secret in secrets if secret.encode() in content] == []


def test_what_cannot_be_brought_back_is_refused_before_anything_is_written(
    first: Stack, kept: Path, tmp_path: Path, passphrase: Path
) -> None:
    def refusal(file: Path, secret: Path, data: Path) -> str:
        done = first.wfhub("restore", str(file), f"--data={data}", f"--passphrase-file={secret}")
        assert done.returncode != 0
        assert data == first.data or not data.exists()
        return done.stderr

    data = tmp_path / "data"
    wrong = tmp_path / "wrong"
    wrong.write_text("not the passphrase at all")
    assert "does not open" in refusal(kept, wrong, data)
    assert "has a stack already" in refusal(kept, passphrase, first.data)

    content = kept.read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(content[: len(content) // 2])
    assert "damaged" in refusal(cut, passphrase, data)

    with tarfile.open(kept) as tar:
        blob = next(member for member in tar if member.name.startswith("blobs/") and member.size)
    changed = bytearray(content)
    changed[blob.offset_data] ^= 1
    bad = tmp_path / "bad"
    bad.write_bytes(changed)
    assert "is damaged: it is not" in refusal(bad, passphrase, data)

    foreign = tmp_path / "foreign"
    with tarfile.open(foreign, "w") as tar:
        tar.add(wrong, "../../etc/passwd")
    assert "no backup of ours" in refusal(foreign, passphrase, data)


def test_a_short_passphrase_is_refused(first: Stack, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("hunter2")
    done = first.wfhub(
        "backup", str(tmp_path / "b"), f"--data={first.data}", f"--passphrase-file={short}"
    )
    assert done.returncode != 0
    assert "at least" in done.stderr
    assert not (tmp_path / "b").exists()
