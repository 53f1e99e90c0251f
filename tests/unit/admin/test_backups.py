import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from wfhub_admin import backups

NOW = datetime(2026, 11, 28, 2, 30, tzinfo=UTC)


def made(folder: Path, *names: str, age: timedelta = timedelta()) -> None:
    for name in names:
        path = folder / name
        path.mkdir() if name.startswith(".") else path.touch()
        os.utime(path, times=((NOW - age).timestamp(),) * 2)


def test_the_newest_stay_and_files_of_others_too(tmp_path: Path) -> None:
    days = [backups.new(tmp_path, NOW - timedelta(days=n)).name for n in range(4)]
    made(tmp_path, *days, "hub.wfhub", "passphrase", "hub-of-mine.wfhub")
    assert backups.remove_old(tmp_path, 2, NOW) == sorted(days[2:])
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*days[:2], "hub.wfhub", "passphrase", "hub-of-mine.wfhub"}


def test_what_one_that_was_broken_off_left_goes_a_day_later(tmp_path: Path) -> None:
    name = backups.new(tmp_path, NOW).name
    made(tmp_path, f"{name}.new", ".wfhub-backup-x", age=timedelta(hours=25))
    made(tmp_path, ".wfhub-backup-y", age=timedelta(hours=1))
    assert backups.remove_old(tmp_path, 1, NOW) == [".wfhub-backup-x", f"{name}.new"]
    assert [path.name for path in tmp_path.iterdir()] == [".wfhub-backup-y"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is no folder"):
        backups.new(tmp_path / "backup", NOW)
