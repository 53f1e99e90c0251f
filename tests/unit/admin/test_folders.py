"""Secrets as folders: written again at each start, beside runners that work."""

import json
import os
from pathlib import Path

import pytest
from wfhub_admin import credentials, folders, runner
from wfhub_admin.outlay import READERS, RUNNERS, Where, outlay
from wfhub_common import sealed


def provisioned(tmp_path: Path) -> Path:
    """As the container `secrets` does at each `docker compose up`."""
    truth = folders.truth(tmp_path / "state", tmp_path / "secrets", runners=3)
    made = outlay(truth, Where("nats://nats:4222"), provider_keys={})
    folders.write(made, tmp_path / "secrets", dict.fromkeys(READERS, os.geteuid()))
    return tmp_path / "secrets" / RUNNERS


def test_runners_that_start_after_another_provisioning_take_other_identities(
    tmp_path: Path,
) -> None:
    (tmp_path / "state").mkdir()
    held = [runner.taken(provisioned(tmp_path)) for _ in range(3)]
    assert len({file.name for file, _ in held}) == 3
    for _, lock in held:
        os.close(lock)


def test_what_was_changed_or_is_nobodys_is_put_right(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    identities = provisioned(tmp_path)
    before = {file.name: file.read_text() for file in identities.iterdir()}
    (identities / "runner-1.json").write_text("{}")
    (identities / "runner-2.json").write_bytes(b"\xff")
    (identities / "runner-3.json").unlink()
    (identities / "runner-9.json").write_text("{}")
    provisioned(tmp_path)
    assert {file.name: file.read_text() for file in identities.iterdir()} == before


def test_sealing_keys_are_made_once_and_one_more_when_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()

    def keys(newest: int) -> sealed.Keys:
        made = folders.truth(
            tmp_path / "state", tmp_path / "secrets", runners=1, sealing_key=newest
        )
        assert folders.kept(tmp_path / "state") == made
        return sealed.keys(made.sealing_keys)

    one = keys(1)
    assert keys(1) == one
    two = keys(2)
    assert (two.newest, two.by_number[1]) == (2, one.by_number[1])
    assert keys(1) == two, "none is taken away"
    file = tmp_path / "state" / folders.SEALING_KEYS
    assert file.stat().st_mode & 0o077 == 0
    file.write_text("[]")
    with pytest.raises(SystemExit, match=r"sealing-keys\.json: is no JSON object of keys: bring"):
        keys(1)


def test_the_version_before_reads_the_credentials_and_leaves_the_sealing_keys(
    tmp_path: Path,
) -> None:
    """It refuses credentials with a field that it does not know."""
    (tmp_path / "state").mkdir()
    provisioned(tmp_path)
    found = json.loads((tmp_path / "state" / folders.CREDENTIALS).read_text())
    known = ("admin_token", "nats", "database", "tokens", "runner_ids", "subscribers")
    assert set(found) == {*known, "reader_secret"}


def test_a_backup_brings_the_sealing_keys_back(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    provisioned(tmp_path)
    kept = folders.kept(tmp_path / "state")
    folders.bring_back(tmp_path / "elsewhere", kept)
    assert folders.kept(tmp_path / "elsewhere") == kept
    grown = folders.truth(tmp_path / "elsewhere", tmp_path / "no", runners=3, sealing_key=2)
    folders.bring_back(tmp_path / "elsewhere", kept)  # again
    assert folders.kept(tmp_path / "elsewhere") == grown
    assert credentials.grown_from(grown.credentials, kept.credentials)
