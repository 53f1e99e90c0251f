"""Tests of what a share can be: they run in a guest (tests/deploy/storage), never on this machine.

WFHUB_SHARE is the server's kind; its share is mounted at /share as the docs say.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import gitrepos
import pytest
import share_lab
from share_lab import SERVERS, Server

KIND = os.environ.get("WFHUB_SHARE", "")
collect_ignore_glob = [] if KIND else ["test_*.py"]


@pytest.fixture(scope="session")
def server() -> Server:
    return SERVERS[KIND]()


@pytest.fixture
def here(server: Server) -> Iterator[Path]:
    """A new folder on the share."""
    with gitrepos.shared_folder() as folder:
        yield folder


@pytest.fixture
def there(server: Server, here: Path) -> Iterator[Path]:
    """The same folder as another client has it: nothing that this one keeps is known to that."""
    with server.mounted(Path("/other"), server.apart) as other:
        yield other / here.relative_to(share_lab.AT)
