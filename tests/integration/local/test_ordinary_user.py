"""The stack without root: everything runs as the one who started it."""

import os
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from wfhub_common import privileges

from .conftest import Up, get, gone

ORDINARY_UID = 64100


@pytest.fixture
def as_ordinary(tmp_path: Path) -> list[str]:
    """The argv that becomes somebody in particular: ourselves where we are not root."""
    uid = os.geteuid() or ORDINARY_UID
    if os.geteuid() == 0:
        os.chown(tmp_path, uid, uid)
    words = privileges.launcher(
        uid,
        [],
        gid=None if os.geteuid() == 0 else os.getgid(),
        keep_visible=(*privileges.code_paths(), Path(sysconfig.get_path("scripts"))),
        keep_writable=(tmp_path,),
    )
    return [*words]


def test_it_runs_and_recovers_as_an_ordinary_user(
    started: Callable[..., Up], as_ordinary: list[str], tmp_path: Path
) -> None:
    env = {"HOME": str(tmp_path)}
    up = started(prefix=as_ordinary, env=env).ready()
    assert get(f"{up.url}/readyz")[0] == 200
    below = up.below()
    uid = os.geteuid() or ORDINARY_UID
    assert set(up.of_each(lambda process: process.uids().real)) == {uid}
    up.kill()
    assert gone(below) == []

    again = started(prefix=as_ordinary, env=env).ready()
    below = again.below()
    assert again.interrupt() == 0
    assert gone(below) == []


def test_the_default_place_is_the_users_own(
    started: Callable[..., Up], as_ordinary: list[str], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    up = started(
        data=None,
        prefix=as_ordinary,
        env={"HOME": str(home), "XDG_DATA_HOME": str(home / "share")},
    ).ready()
    assert (home / "share" / "wfhub" / "state.json").exists()
    assert up.interrupt() == 0
