from wfhub_local import restarts


def test_each_crash_in_a_row_waits_longer_up_to_a_bound() -> None:
    delays = [restarts.delay_s([0.0] * n, now=0.0, was_ready=True) for n in range(1, 9)]
    assert delays[:3] == [0.1, 0.2, 0.4]
    assert delays[-1] == restarts.BACKOFF_MAX_S


def test_ends_outside_the_window_are_forgotten() -> None:
    old = [0.0] * 100
    now = restarts.RESTART_WINDOW_S + 1
    assert restarts.delay_s([*old, now], now=now, was_ready=True) == restarts.BACKOFF_FIRST_S


def test_a_process_that_ends_at_once_whenever_it_is_started_is_given_up_within_the_window() -> None:
    now, ends = 0.0, []
    while now < restarts.RESTART_WINDOW_S:
        now += 1.0  # it lives a second
        ends.append(now)
        delay_s = restarts.delay_s(ends, now=now, was_ready=True)
        if delay_s is None:
            return
        now += delay_s
    raise AssertionError("it would be started for ever")


def test_one_kill_each_five_seconds_is_survived() -> None:
    ends: list[float] = []
    for turn in range(100):
        ends.append(turn * 5.0)
        assert restarts.delay_s(ends, now=ends[-1], was_ready=True) is not None


def test_before_the_stack_was_ready_a_broken_set_up_is_said_soon() -> None:
    assert restarts.delay_s([1.0, 2.0], now=2.0, was_ready=False) is not None
    assert restarts.delay_s([1.0, 2.0, 3.0], now=3.0, was_ready=False) is None
