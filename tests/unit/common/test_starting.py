"""What is asked of a folder before a service works in it."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from wfhub_common import starting


def test_a_folder_is_made_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    folder = starting.writable(tmp_path / "a" / "b", "RUNNER_HOME")
    assert list(folder.iterdir()) == []


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(SystemExit, match="bad settings: RUNNER_HOME: cannot write to"):
        starting.writable(tmp_path / "home", "RUNNER_HOME")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_nobody_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(**_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert starting.writable(tmp_path, "PROOFS_ROOT") == tmp_path
