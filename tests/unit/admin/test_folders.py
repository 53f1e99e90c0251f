"""Secrets as folders: written again at each start, beside runners that work."""

import os
from pathlib import Path

from wfhub_admin import folders, runner
from wfhub_admin.outlay import READERS, RUNNERS, Where, outlay


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
