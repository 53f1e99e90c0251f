"""`wfhub doctor`: what works here, as text and as JSON."""

import json
import subprocess
import sysconfig
from pathlib import Path

WFHUB = str(Path(sysconfig.get_path("scripts")) / "wfhub")


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([WFHUB, "doctor", *arguments], capture_output=True, text=True, timeout=60)


def test_it_says_which_backends_work_and_why_others_do_not() -> None:
    done = doctor("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    by_name = {backend["name"]: backend for backend in found["backends"]}
    assert found["ready"]
    assert by_name["bwrap"]["works"]
    assert by_name["bwrap"]["facts"]["probes"] > 10
    assert by_name["bwrap"]["facts"]["uid"] != 0
    for name in ("container", "kubernetes"):
        assert not by_name[name]["works"]
        assert by_name[name]["why"]
        assert by_name[name]["do"]


def test_it_reads_well() -> None:
    done = doctor()
    assert done.returncode == 0, done.stderr
    assert "bwrap       works" in done.stdout
    assert "why: this backend is not built yet" in done.stdout
