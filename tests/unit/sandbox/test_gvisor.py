"""What is said of a runsc: programs that answer as releases of it do."""

from pathlib import Path

import pytest
from wfhub_agent_runner.sandbox import gvisor

OLD, TRIED = "0.0~20221219.0", "0.0~20240729.0"


def program(folder: Path, version: str, then: str) -> str:
    path = folder / "runsc"
    says = f'test "$1" = --version && echo "runsc version {version}" && exit 0'
    path.write_text(f"#!/bin/sh\n{says}\n{then}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("version", "then", "word", "starts"),
    [
        (OLD, "exit 0", "cannot pass a descriptor", False),
        (TRIED, "echo 'cannot create gofer process' >&2; exit 128", "cannot create gofer", False),
        (TRIED, "exit 0", "escape probes", True),
    ],
)
def test_how_far_it_gets_is_said(
    tmp_path: Path, version: str, then: str, word: str, starts: bool
) -> None:
    found = gvisor.found(tmp_path, program(tmp_path, version, then))
    assert (found.version, found.starts) == (version, starts)
    assert word in found.why


def test_that_there_is_none_is_said(tmp_path: Path) -> None:
    assert "there is no no-such-program here" in gvisor.found(tmp_path, "no-such-program").why
