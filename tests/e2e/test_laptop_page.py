"""Option 0's page, typed in a clone of this repository: doctor, a stack with a model, a first task.

Other than on the page: the environment is there already, the model is a stand-in, the port is any,
and all that is kept lies in a folder of the test.
"""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import one_edit_model
import own_ports
import pages
import pytest
import stack_lab

from .conftest import git

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "deploy" / "laptop.md"
LINE_S_MAX = 150.0
MODEL_URL = "http://127.0.0.1:11434/v1"
pytestmark = pytest.mark.timeout(stack_lab.READY_S_MAX + 2 * LINE_S_MAX)


def test_the_page_of_the_laptop_option(tmp_path: Path) -> None:
    first, second = pages.blocks(PAGE.read_text())
    install, doctor, up = first.splitlines()
    assert shlex.split(install, comments=True) == ["make", ".venv/.installed"]
    checkout = tmp_path / "checkout"
    git("clone", "-q", str(ROOT), str(checkout))
    (checkout / ".venv").symlink_to(sys.prefix)
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("WFHUB_", "LLM_"))}
    env = {
        **keep,
        "WFHUB_DATA": str(tmp_path / "data"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }

    def typed(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line],
            cwd=checkout,
            env=env,
            capture_output=True,
            text=True,
            timeout=LINE_S_MAX,
        )

    works = typed(doctor)
    assert works.returncode == 0, works.stdout + works.stderr

    port = own_ports.free_ports(1)
    assert MODEL_URL in up
    line = f"{up.replace(MODEL_URL, f'http://127.0.0.1:{port}/v1')} --port 0"
    with (
        one_edit_model.serving(port, "echo a platform for agents > NOTES.md"),
        subprocess.Popen(
            ["bash", "-c", line],  # which becomes it: there is no other command
            cwd=checkout,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as running,
    ):
        try:
            stack_lab.ready_url(running, stack_lab.READY_S_MAX)
            ran = typed(second)
            assert ran.returncode == 0, ran.stdout + ran.stderr
            (branch,) = git("branch", "--list", "wfhub/*", cwd=checkout).split()
            assert "agents" in git("show", f"{branch}:NOTES.md", cwd=checkout)
        finally:
            running.send_signal(signal.SIGINT)
