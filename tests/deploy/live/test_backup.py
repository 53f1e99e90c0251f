"""The backup of docs/deploy/compose.md, word for word: stop, copy the volumes, restore them."""

import re
import subprocess
from pathlib import Path

import pytest
from deploy_tools import ROOT
from docker_lab import Site

pytestmark = pytest.mark.timeout(1500)


def commands(heading: str) -> str:
    """The shell commands of the page that follow the sentence with `heading` in it."""
    page = (ROOT / "docs" / "deploy" / "compose.md").read_text()
    after = page[page.index(heading) :]
    found = re.search(r"\n\n((?:    .*\n)+)", after)
    assert found is not None
    return re.sub(r"(?m)^    ", "", found.group(1))


def test_what_was_backed_up_is_there_after_everything_was_removed(
    site: Site, tmp_path: Path
) -> None:
    site.repository("backed-up")
    done = site.wfhub_json(
        *("run", "--repo", "mount:backed-up", "--prompt", "x"),
        *("--agent-cmd", "sh -c 'echo kept > kept.txt'"),
    )
    assert done["state"] == "succeeded", done
    assert site.compose("down").returncode == 0

    def shell(script: str) -> None:
        copies = [line for line in script.splitlines() if not line.startswith("docker compose")]
        ran = subprocess.run(
            ["bash", "-euc", "\n".join(copies)],
            env=site.host.env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, ran.stderr

    shell(commands("For a backup stop first"))
    assert {path.stem for path in tmp_path.glob("*.tar")} >= {"state", "postgres", "proofs"}
    assert site.compose("down", "-v").returncode == 0
    assert site.compose("up", "--no-start", "--no-build").returncode == 0
    shell(commands("To restore"))
    site.up()
    shown = site.wfhub("status", done["task_id"], "--json")
    assert done["commit"] in shown.stdout
    assert site.wfhub("proof", "verify", done["proof_id"]).returncode == 0
