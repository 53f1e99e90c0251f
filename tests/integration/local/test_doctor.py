"""`wfhub doctor`: what works here, as text and as JSON."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import no_user_namespaces
import pytest
import sandbox_backends
from wfhub_common import privileges

pytestmark = pytest.mark.timeout(300)
WFHUB = str(Path(sysconfig.get_path("scripts")) / "wfhub")


def doctor(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [WFHUB, "doctor", *arguments], capture_output=True, text=True, timeout=200, env=env
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


@pytest.mark.parametrize("as_json", [True, False])
def test_where_no_sandbox_works_it_names_the_setting_that_forbids_it(as_json: bool) -> None:
    argv = [sys.executable, no_user_namespaces.__file__, WFHUB, "doctor"]
    if os.geteuid() == 0:
        visible = (*privileges.code_paths(), Path(no_user_namespaces.__file__).parent)
        argv = privileges.launcher(privileges.SERVICE_UIDS["runner"], argv, keep_visible=visible)
    env = {"PATH": os.environ["PATH"], "HOME": "/tmp"}
    done = subprocess.run(
        [*argv, *(["--json"] if as_json else [])],
        capture_output=True, text=True, timeout=200, cwd="/", env=env,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "sysctl user.max_user_namespaces=10000" in done.stdout
    if as_json:
        assert json.loads(done.stdout)["ready"] is False
    else:
        assert "no sandbox works here: a runner would take no task" in done.stdout


def test_it_reads_well() -> None:
    done = doctor()
    assert done.returncode == 0, done.stderr
    assert "bwrap       works" in done.stdout
    assert "{" not in done.stdout
    assert "why: not probed here" in done.stdout
