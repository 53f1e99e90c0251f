"""Which changed paths are told of as tests."""

import pytest
from wfhub_agent_runner.gitwork.test_files import is_test_file


@pytest.mark.parametrize(
    "path",
    ["tests/test_app.py", "conftest.py", "app/test_x.py", "web/a.spec.ts", "a/sitecustomize.py"],
)
def test_what_decides_about_a_verification_is_a_test_file(path: str) -> None:
    assert is_test_file(path)


@pytest.mark.parametrize("path", ["src/app.py", "latest/app.py", "contest.py", "docs/testing.md"])
def test_what_only_sounds_like_it_is_none(path: str) -> None:
    assert not is_test_file(path)
