"""The programs of agents, installed once by `make agents` and kept."""

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def toolchain() -> Path:
    return Path(os.environ.get("WFHUB_TEST_AGENTS") or PROJECT / ".agents").absolute()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)  # service uids pass through it
    return tmp_path
