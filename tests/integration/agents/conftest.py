"""The demo's folder, prepared once and kept: its downloads are pinned by hash."""

import fcntl
import os
from pathlib import Path

import pytest
from wfhub_local.demo.folder import DEFAULT_FOLDER, Folder

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def prepared() -> Folder:
    variable, default = DEFAULT_FOLDER
    folder = Folder(Path(os.environ.get(variable) or PROJECT / default).absolute())
    folder.path.mkdir(parents=True, exist_ok=True)
    with (folder.path / "preparing").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # tests in another process may be at the same
        folder.prepare()
    return folder


@pytest.fixture
def demo(prepared: Folder, tmp_path: Path) -> Folder:
    """A folder of the test's own, with what was prepared."""
    for name in ("downloads", "toolchain"):
        (tmp_path / name).symlink_to(prepared.path / name)
    return Folder(tmp_path)
