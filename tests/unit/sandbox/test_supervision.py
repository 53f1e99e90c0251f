"""Supervision: what a run that ends at the same moment may not break."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from wfhub_agent_runner.sandbox.layers import Layer
from wfhub_agent_runner.sandbox.overlays import Held, Overlays
from wfhub_agent_runner.sandbox.port import SandboxSpec
from wfhub_agent_runner.sandbox.starter import STARTING
from wfhub_agent_runner.sandbox.supervision import Started, _Life
from wfhub_agent_runner.sandbox.usage import Usage
from wfhub_common.messages import Limits


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One that has a child."""
    made = subprocess.Popen(
        ["/bin/sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE, start_new_session=True
    )
    assert made.stdout is not None
    assert made.stdout.readline() == b"\n"
    yield made
    os.killpg(made.pid, signal.SIGKILL)
    made.wait()
    made.stdout.close()


async def test_a_run_that_has_just_ended_is_told_of_its_end_in_vain(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    """With gVisor it would hear of it by a byte, which nobody reads any more."""
    (status, says), (report, reports), (go, goes) = os.pipe(), os.pipe(), os.pipe()
    os.write(says, b"first\n")
    os.write(reports, STARTING)
    os.close(go)
    held = Held(Overlays(), {})
    started = Started(process, -1, status, report, goes, None, held, parent=True, root="/x")
    spec = SandboxSpec(("true",), tmp_path, limits=Limits(), wall_s=1)
    life = _Life(started, spec, Layer(tmp_path, tmp_path, Usage))
    await life.report.first_line.wait()
    assert await life.told()
    process.kill()
    life.close()
    for descriptor in (status, says, report, reports, goes):
        os.close(descriptor)
