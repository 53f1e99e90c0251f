"""`wfhub doctor`: what works here, as text and as JSON."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
import sandbox_backends

WFHUB = str(Path(sysconfig.get_path("scripts")) / "wfhub")


def doctor(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [WFHUB, "doctor", *arguments], capture_output=True, text=True, timeout=60, env=env
    )


def test_it_says_which_backends_work_and_why_others_do_not() -> None:
    done = doctor("--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    by_name = {backend["name"]: backend for backend in found["backends"]}
    assert found["ready"]
    assert by_name["bwrap"]["works"]
    assert by_name["bwrap"]["facts"]["probes"] > 10
    assert by_name["bwrap"]["facts"]["uid"] != 0
    for name in ("container", "runsc", "kubernetes"):
        works = name in sandbox_backends.AVAILABLE
        assert by_name[name]["works"] == works, by_name[name]
        if not works:
            assert by_name[name]["why"]
            assert by_name[name]["do"]
    if by_name["container"]["works"]:
        assert by_name["container"]["facts"]["probes"] == by_name["bwrap"]["facts"]["probes"]


@pytest.mark.parametrize(
    ("variable", "names"), [("CONTAINER_ENGINE", "podman"), ("CONTAINER_RUNTIME", "crun")]
)
def test_a_missing_program_is_named_with_what_to_do(variable: str, names: str) -> None:
    done = doctor("--json", env={**os.environ, variable: "no-such-program"})
    backend = json.loads(done.stdout)["backends"][1]
    assert (done.returncode, backend["name"], backend["works"]) == (0, "container", False)
    assert "there is no" in backend["why"]
    assert names in backend["do"]


def test_it_reads_well() -> None:
    done = doctor()
    assert done.returncode == 0, done.stderr
    assert "bwrap       works" in done.stdout
    assert "why: unproven" in done.stdout
