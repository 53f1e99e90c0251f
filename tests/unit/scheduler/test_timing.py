"""Backoffs, and when silence counts."""

import pytest
from wfhub_common.messages import Retry
from wfhub_scheduler.timing import (
    PUBLISH_DELAY_S_MAX,
    Calm,
    loss_delay_s,
    publish_delay_s,
    retried_on,
    retry_delay_s,
    seal_delay_s,
)


@pytest.mark.parametrize("luck", [0.0, 0.5, 0.999])
def test_publications_double_with_jitter_up_to_a_cap(luck: float) -> None:
    for tries in range(1, 6):
        full = 2.0 * 2 ** (tries - 1)
        assert full / 2 <= publish_delay_s(2.0, tries, luck) <= full
    assert publish_delay_s(2.0, 10_000, luck) <= PUBLISH_DELAY_S_MAX


def test_a_tasks_policy_says_how_long_to_wait() -> None:
    policy = Retry(backoff_ms=1000, factor=3, backoff_max_ms=20_000, jitter_percent=0)
    assert [retry_delay_s(policy, n, 0.9) for n in (1, 2, 3, 4, 10_000)] == [1, 3, 9, 20, 20]
    assert retry_delay_s(Retry(backoff_ms=0), 5, 0.5) == 0


def test_jitter_takes_up_to_its_share_away() -> None:
    policy = Retry(backoff_ms=1000, jitter_percent=40)
    assert retry_delay_s(policy, 1, 0.0) == 1.0
    assert retry_delay_s(policy, 1, 0.5) == pytest.approx(0.8)
    assert 0.6 < retry_delay_s(policy, 1, 0.999) < 0.61


@pytest.mark.parametrize(
    ("on", "reason", "retried"),
    [
        (None, "agent-failed", True),
        (("agent-failed",), "agent-failed", True),
        (("agent-failed",), "agent-failed-otherwise", False),
        (("limit:",), "limit:idle", True),
        (("limit:",), "limit", False),
        (("limit:idle",), "limit:run_s", False),
        (("verification-failed", "limit:"), "verification-failed", True),
    ],
)
def test_a_policy_names_reasons_or_how_they_begin(
    on: tuple[str, ...] | None, reason: str, retried: bool
) -> None:
    assert retried_on(Retry(on=on), reason) == retried


def test_the_first_loss_waits_for_nothing_later_ones_do() -> None:
    assert loss_delay_s(1, 0.5) == 0
    assert 0 < loss_delay_s(2, 0.5) < loss_delay_s(3, 0.5) < loss_delay_s(10_000, 0.5) <= 60


def test_a_seal_is_asked_for_again_ever_more_slowly() -> None:
    assert seal_delay_s(2.0, 0, 0.5) < seal_delay_s(2.0, 3, 0.5) < seal_delay_s(2.0, 99, 0.5) <= 60


def turns(calm: Calm, *times: float, healthy: bool = True) -> list[bool]:
    return [calm.turn(now, healthy=healthy) for now in times]


def test_nothing_expires_within_one_ttl_of_the_start() -> None:
    calm = Calm(ttl_s=3.0, pause_s=1.5)
    assert turns(calm, 0, 1, 2, 2.9, 3.1) == [False, False, False, False, True]


def test_an_outage_puts_expiry_off_by_one_ttl() -> None:
    calm = Calm(ttl_s=3.0, pause_s=1.5)
    turns(calm, 0, 1, 2, 3)
    assert turns(calm, 4, healthy=False) == [False]
    assert turns(calm, 5, 6, 6.9, 7) == [False, False, False, True]


def test_a_long_pause_of_the_process_counts_as_an_outage() -> None:
    calm = Calm(ttl_s=3.0, pause_s=1.5)
    assert turns(calm, 0, 1, 2, 3, 60, 61, 62, 63) == [False] * 3 + [True] + [False] * 3 + [True]
