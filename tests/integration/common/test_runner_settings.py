"""The runner at a start that cannot be: it says what is wrong and what to do, and ends with 1."""

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gitrepos
import pytest
import unprivileged
from wfhub_agent_runner.main import own_cgroups
from wfhub_agent_runner.settings import RunnerSettings
from wfhub_common import ids

END_S_MAX = 60


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that the runner's uid can reach."""
    with gitrepos.shared_folder() as folder:
        yield folder


def environment(shared: Path) -> dict[str, str]:
    home = shared / "home"
    home.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(home, unprivileged.uid(), unprivileged.uid())
    return {
        "PATH": os.environ["PATH"],
        "RUNNER_ID": ids.new_runner_id(),
        "RUNNER_HOME": str(home),
        "RUNNER_UID": str(unprivileged.uid()),
        "NATS_URL": "nats://127.0.0.1:9",
        "PROOFS_URL": "http://127.0.0.1:9",
        "GATEWAY_URL": "http://127.0.0.1:9",
    }


async def last_line(env: dict[str, str]) -> str:
    """Of a runner that has to end by itself, with 1."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wfhub_agent_runner.main"),
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(END_S_MAX):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    told = errors.decode()
    assert "Traceback" not in told, told
    assert process.returncode == 1, told
    return told.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "variable",
    [
        "GIT_KNOWN_HOSTS_FILE",
        "GIT_CA_FILE",
        "GIT_CREDENTIALS_FILE",
        "CONTAINER_AUTH_FILE",
        "WORKSPACE_ROOT",
        "REPO_ROOTS",
        "TOOLCHAINS",
        "CGROUP_ROOT",
    ],
)
async def test_a_path_that_is_not_there_ends_it(variable: str, shared: Path) -> None:
    env = environment(shared) | {variable: str(shared / "nothing")}
    told = await last_line(env)
    assert told.startswith(f"bad settings: {variable}: ")
    assert str(shared / "nothing") in told


@pytest.mark.parametrize(
    "variable", ["GIT_KNOWN_HOSTS_FILE", "GIT_CA_FILE", "GIT_CREDENTIALS_FILE"]
)
async def test_a_file_that_is_something_else_ends_it(variable: str, shared: Path) -> None:
    (shared / "file").write_text("\x7fELF not what it should be\n")
    told = await last_line(environment(shared) | {variable: str(shared / "file")})
    assert told.startswith(f"bad settings: {variable}: ")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUNNER_SLOTS", "0"),
        ("RUNNER_SLOTS", "5000"),
        ("RUNNER_POOL", "Not A Pool"),
        ("RUNNER_ID", "runner one"),
        ("RUNNER_UID", "0"),
        ("PROBE_EVERY_S", "0"),
        ("WORKSPACE_FOLDERS", "=nothing"),
        ("SHARED_CACHES", "nothing"),
        ("CONTAINER_IMAGES", "=x"),
        ("EGRESS_ALLOWED", "nothing"),
        ("METRICS_LISTEN", "9090"),
        ("READY_FILE", "/proc/nothing/ready"),
    ],
)
async def test_a_value_that_cannot_be_ends_it(variable: str, value: str, shared: Path) -> None:
    told = await last_line(environment(shared) | {variable: value})
    assert told.startswith(f"bad settings: {variable}: ")


async def test_two_ways_to_git_credentials_end_it(shared: Path) -> None:
    (shared / "file").write_text('{"credentials": []}')
    more = {"GIT_CREDENTIALS_FILE": str(shared / "file"), "GIT_CREDENTIALS": '{"credentials": []}'}
    told = await last_line(environment(shared) | more)
    assert told.startswith("bad settings: GIT_CREDENTIALS and GIT_CREDENTIALS_FILE: ")


async def test_a_home_with_another_users_files_ends_it(shared: Path) -> None:
    env = environment(shared)
    (shared / "home" / "gitwork.lock").touch(mode=0o400)
    if os.geteuid() == 0:
        os.chown(shared / "home" / "gitwork.lock", 0, 0)
    told = await last_line(env)
    assert told.startswith("bad settings: RUNNER_HOME: ")
    assert f"belong to uid {unprivileged.uid()}" in told


async def test_a_home_that_another_runner_works_in_ends_it_and_nothing_there_is_touched(
    shared: Path,
) -> None:
    env = environment(shared)
    home = shared / "home"
    kept = [home / name for name in ("scratch/one", "sandbox/two", "attempts/three")]
    for file in kept:
        file.parent.mkdir()
        file.write_text("the other's")
    with contextlib.ExitStack() as at_end:
        lock = at_end.enter_context((home / "gitwork.lock").open("w"))
        for path in (home / "gitwork.lock", *kept, *(file.parent for file in kept)):
            os.chown(path, unprivileged.uid(), unprivileged.uid())
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = await last_line(env)
    assert told.startswith(f"bad settings: RUNNER_HOME: another runner works in {home}")
    assert [file.read_text() for file in kept] == ["the other's"] * 3


def test_a_runner_that_is_to_have_cgroups_does_not_start_where_it_can_make_none(
    shared: Path,
) -> None:
    settings = RunnerSettings.from_env(environment(shared) | {"CGROUP_ROOT": "required"})

    async def work() -> str:
        with pytest.raises(SystemExit) as told:
            own_cgroups(settings)
        return str(told.value)

    told = unprivileged.run(shared / "home", work)
    assert told.startswith("bad settings: CGROUP_ROOT: not every limit can be held by a cgroup: ")
