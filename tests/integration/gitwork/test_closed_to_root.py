"""Repositories that root may not open, as on a share with root_squash: the broker without the
capabilities that let root pass by permissions."""

import ctypes
import os
import pickle
from pathlib import Path

import gitrepos
import pytest
from gitrepos import git
from wfhub_agent_runner.gitwork import access_broker
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_common.errors import Rejected

from .conftest import POLICY

OWNER, OTHER = 64001, 64002
_PR_CAPBSET_DROP = 24
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a broker")


def resolved(repo: Path) -> str:
    """The commit of its HEAD, or the code of what was refused."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):  # for what is executed from here
                assert ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0
            with access_broker.start(POLICY) as socket:
                try:
                    said = RepoAccess.over_socket(socket, POLICY).resolve(str(repo), None).commit
                except Rejected as e:
                    said = e.code
            os.write(writing, pickle.dumps(said))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    return str(pickle.loads(told))


@pytest.fixture
def repo(shared: Path) -> Path:
    made = gitrepos.make(shared / "home" / "repo", {"README": b"hello\n"})
    gitrepos.chown_tree(shared / "home", OWNER)
    return made


@pytest.mark.parametrize("closed", ["home", "home/repo", "home/repo/.git"])
def test_it_is_opened_as_its_owner(shared: Path, repo: Path, closed: str) -> None:
    commit = git(repo, "rev-parse", "HEAD")
    (shared / closed).chmod(0o700)
    assert resolved(repo) == commit


def test_not_as_who_owns_only_the_folder_on_the_way(shared: Path, repo: Path) -> None:
    gitrepos.chown_tree(repo, OTHER)
    (shared / "home").chmod(0o700)
    assert resolved(repo) == "repo-forbidden"


def test_not_where_root_closed_it(shared: Path, repo: Path) -> None:
    gitrepos.chown_tree(shared / "home", 0)
    os.chown(repo, OTHER, OTHER)
    (shared / "home").chmod(0o000)
    assert resolved(repo) == "repo-forbidden"
