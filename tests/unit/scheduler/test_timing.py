"""Backoffs, and when silence counts."""

import pytest
from wfhub_scheduler.timing import (
    RETRY_DELAY_S_MAX,
    Calm,
    loss_delay_s,
    retry_delay_s,
    seal_delay_s,
)


@pytest.mark.parametrize("luck", [0.0, 0.5, 0.999])
def test_retries_double_with_jitter_up_to_a_cap(luck: float) -> None:
    for tries in range(1, 6):
        full = 2.0 * 2 ** (tries - 1)
        assert full / 2 <= retry_delay_s(2.0, tries, luck) <= full
    assert retry_delay_s(2.0, 10_000, luck) <= RETRY_DELAY_S_MAX


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
