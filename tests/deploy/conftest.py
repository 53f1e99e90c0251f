"""What several folders need: made once, and first when a test asks for it."""

from collections.abc import Iterator
from pathlib import Path

import guest
import pytest


@pytest.fixture(scope="session")
def debian() -> Iterator[Path]:
    """What guests boot."""
    with guest.tree() as root:
        yield root
