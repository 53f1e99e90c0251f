"""Limits on a command line."""

import pytest
from wfhub_client import limit_words
from wfhub_client.errors import Usage


def test_names_and_sizes_are_the_apis() -> None:
    words = ["memory=1.5GiB", "disk_bytes=10", "cpu=0.5", "run_s=60", "idle_s=none"]
    assert limit_words.parse("--limit", words) == {
        "memory_bytes": 3 * 2**29,
        "disk_bytes": 10,
        "cpu_millicores": 500,
        "run_s": 60,
        "idle_s": None,
    }


@pytest.mark.parametrize(
    "word", ["memory", "memory=", "memory=4XB", "cpus=1", "run_s=1GiB", "cpu=nan", "cpu=inf", "=1"]
)
def test_what_is_no_limit_is_refused_with_what_would_be(word: str) -> None:
    with pytest.raises(Usage, match="--limit"):
        limit_words.parse("--limit", [word])


def test_limits_are_shown_as_they_are_written() -> None:
    limits = {"memory_bytes": 4 * 2**30, "cpu_millicores": 1500, "run_s": 60, "disk_bytes": 1000}
    assert limit_words.shown(limits) == "memory=4GiB cpu=1.5 run_s=60 disk=1000"
