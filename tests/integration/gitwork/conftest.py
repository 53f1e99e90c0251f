"""Both ways to a repository, for one test body: the runner's own uid, and the broker."""

from collections.abc import Iterator
from pathlib import Path

import gitrepos
import pytest
from wfhub_agent_runner.gitwork import access_broker
from wfhub_agent_runner.gitwork.client import RepoAccess
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.workspaces import Workspaces

from .leasing import FILES

POLICY = Policy(file_repos=True, remote_uid=64001, timeout_s=60)


@pytest.fixture
def shared() -> Iterator[Path]:
    with gitrepos.shared_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def broker() -> Iterator[RepoAccess]:
    socket = access_broker.start(POLICY)
    yield RepoAccess.over_socket(socket, POLICY)
    socket.close()


@pytest.fixture(params=["direct", "broker"])
def access(request: pytest.FixtureRequest, broker: RepoAccess) -> RepoAccess:
    return broker if request.param == "broker" else RepoAccess.direct(POLICY)


@pytest.fixture
def repo(shared: Path) -> Path:
    return gitrepos.make(shared / "repo", FILES)


@pytest.fixture
async def spaces(shared: Path) -> Workspaces:
    (shared / "home").mkdir()
    spaces = Workspaces(shared / "home", RepoAccess.direct(POLICY))
    await spaces.reap()
    return spaces
