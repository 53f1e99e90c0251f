"""Triggers, jitter, and what is fired of what came due."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wfhub_common.errors import Rejected
from wfhub_common.messages import Overlap
from wfhub_scheduler.schedules.overlaps import QUEUED_MAX, Skip, Start, Wait, decide
from wfhub_scheduler.schedules.plans import ON_TIME_S, Calendar, Plan, Span, Upcoming, plan
from wfhub_scheduler.schedules.triggers import Trigger, jitter_ms, trigger_of, zone_of

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def trigger(when: str, zone: str = "UTC", **more: datetime) -> Trigger:
    return trigger_of(when, zone, **{"anchor_at": NOON, **more})


def planned(
    when: str, *, since: datetime, now: datetime, backfill_max: int = 1, jitter_s: int = 0
) -> Plan:
    calendar = Calendar("sch_x", trigger(when), jitter_s)
    upcoming = calendar.upcoming(since - timedelta(microseconds=1))
    assert upcoming is not None
    return plan(calendar, upcoming, backfill_max=backfill_max, now=now)


def test_an_interval_counts_from_when_it_was_made() -> None:
    every = trigger("@every 1h30m")
    assert every.next_after(NOON) == NOON + 90 * MINUTE
    assert every.next_after(NOON + 90 * MINUTE) == NOON + 180 * MINUTE


def test_an_interval_begins_with_its_start_where_it_has_one() -> None:
    start = NOON + timedelta(days=1)
    every = trigger("@every 1d", starts_at=start, ends_at=start + timedelta(days=1))
    assert every.next_after(NOON) == start
    assert every.next_after(start) == start + timedelta(days=1)  # the end is included
    assert every.next_after(start + timedelta(days=1)) is None


@pytest.mark.parametrize(
    "text", ["@every 9s", "@every 367d", "@every x", "@every 0s", "@every 1.5h"]
)
def test_a_bad_interval_is_refused(text: str) -> None:
    with pytest.raises(Rejected) as refused:
        trigger(text)
    assert refused.value.fields["field"] == "interval"


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(Rejected, match="ends_at"):
        trigger("@daily", starts_at=NOON, ends_at=NOON)


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Pacific/Kiritimati"])
@pytest.mark.parametrize("when", ["@every 1h", "0 * * * *", "30 2 * * *"])
def test_where_the_calendar_ends_there_is_no_instant(when: str, zone: str) -> None:
    for text in ("9999-12-30T12:00:00Z", "9999-12-31T00:00:00Z", "9999-12-31T23:59:59Z"):
        start = datetime.fromisoformat(text)
        assert trigger(when, zone, starts_at=start).next_after(NOON) is None
        assert trigger(when, zone, ends_at=start).next_after(NOON) is not None
    first = datetime(1, 1, 1, tzinfo=UTC)
    found = trigger(when, zone, starts_at=first).next_after(NOON)
    assert found is not None
    assert found > NOON
    assert trigger(when, zone, ends_at=first).next_after(NOON) is None


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("America/NewYork", "America/New_York"),
        ("localtime", None),
        ("America", None),
        ("../UTC", None),
        ("Nowhere/Atall", None),
    ],
)
def test_an_unknown_zone_is_refused_with_what_may_be_meant(
    name: str, suggestion: str | None
) -> None:
    with pytest.raises(Rejected, match="there is no time zone") as refused:
        zone_of(name)
    if suggestion is not None:
        assert suggestion in refused.value.fields["suggestions"]


@given(
    st.sampled_from(["@every 10s", "@every 7m", "*/5 * * * *", "30 2 * * *"]),
    st.timedeltas(timedelta(0), timedelta(days=2)),
    st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_the_newest_instants_are_the_last_of_all(when: str, span: timedelta, count: int) -> None:
    made = trigger(when, "Europe/Berlin")
    every = list(made.between(NOON, NOON + span))
    assert made.newest(NOON, NOON + span, count) == every[-count:]


@given(st.text(min_size=1, max_size=30), st.integers(0, 3600), st.integers(1, 10_000))
def test_jitter_is_the_same_for_all_and_stays_before_the_next_instant(
    schedule_id: str, jitter_s: int, gap_s: int
) -> None:
    following = NOON + timedelta(seconds=gap_s)
    found = jitter_ms(schedule_id, NOON, following, jitter_s)
    assert found == jitter_ms(schedule_id, NOON, following, jitter_s)
    assert 0 <= found <= jitter_s * 1000
    assert found < gap_s * 1000


def test_jitter_is_spread_over_schedules_and_instants() -> None:
    by_schedule = {jitter_ms(f"sch_{n}", NOON, None, 60) for n in range(100)}
    by_instant = {jitter_ms("sch_x", NOON + n * HOUR, None, 60) for n in range(100)}
    for found in (by_schedule, by_instant):
        assert len(found) > 95
        assert min(found) < 10_000
        assert max(found) > 50_000


def test_an_instant_that_has_come_is_fired_and_the_next_one_waited_for() -> None:
    found = planned("@every 1h", since=NOON + HOUR, now=NOON + HOUR)
    assert found == Plan(None, NOON + HOUR, Upcoming(NOON + 2 * HOUR, 0))


def test_a_short_silence_misses_nothing() -> None:
    now = NOON + HOUR + timedelta(seconds=ON_TIME_S)
    found = planned("@every 30s", since=now - timedelta(seconds=60), now=now, backfill_max=0)
    assert found.missed is None
    assert found.fire_at == now - timedelta(seconds=60)


@pytest.mark.parametrize(
    ("backfill_max", "fire_hour", "missed_hours"),
    [
        (0, None, (1, 9)),
        (1, 9, (1, 8)),
        (3, 7, (1, 6)),
        (9, 1, None),
        (100, 1, None),
    ],
)
def test_after_an_outage_the_newest_instants_are_fired_and_the_rest_written_down(
    backfill_max: int, fire_hour: int | None, missed_hours: tuple[int, int] | None
) -> None:
    now = NOON + 9 * HOUR + 30 * MINUTE
    found = planned("@every 1h", since=NOON + HOUR, now=now, backfill_max=backfill_max)
    assert found.fire_at == (None if fire_hour is None else NOON + fire_hour * HOUR)
    span = missed_hours and Span(NOON + missed_hours[0] * HOUR, NOON + missed_hours[1] * HOUR)
    assert found.missed == span
    following = (fire_hour or 9) + 1
    assert found.upcoming == Upcoming(NOON + following * HOUR, 0)


@given(
    st.sampled_from(["@every 10s", "@every 7m", "*/5 * * * *", "30 2 * * *"]),
    st.integers(0, 5),
    st.integers(0, 100_000),
    st.sampled_from([0, 5, 3000]),
)
@settings(max_examples=100, deadline=None)
def test_step_by_step_every_instant_is_either_fired_or_missed_once(
    when: str, backfill_max: int, silence_s: int, jitter_s: int
) -> None:
    calendar = Calendar("sch_x", trigger(when), jitter_s)
    first = calendar.upcoming(NOON)
    assert first is not None
    now = first.due_at + timedelta(seconds=silence_s)
    upcoming: Upcoming | None = first
    fired: list[datetime] = []
    missed: list[datetime] = []
    while upcoming is not None and upcoming.due_at <= now:
        step = plan(calendar, upcoming, backfill_max=backfill_max, now=now)
        assert step.missed or step.fire_at
        if step.missed:
            assert step.missed.first_at == upcoming.fire_at
            missed += calendar.trigger.between(step.missed.first_at, step.missed.last_at)
        if step.fire_at:
            fired.append(step.fire_at)
        upcoming = step.upcoming
    due = [at for at in calendar.trigger.between(NOON, now) if calendar.at(at).due_at <= now]
    due = [at for at in due if at > NOON]
    assert missed + fired == due  # in order, the missed ones first
    late = [at for at in due if calendar.at(at).due_at < now - timedelta(seconds=ON_TIME_S)]
    assert len([at for at in fired if at in late]) == min(backfill_max, len(late))


def test_a_year_of_silence_is_planned_at_once() -> None:
    now = NOON + timedelta(days=365, seconds=5)
    found = planned("* * * * *", since=NOON, now=now, backfill_max=2)
    last = now.replace(second=0)
    assert found.missed == Span(NOON, last - 3 * MINUTE)
    assert found.fire_at == last - 2 * MINUTE  # the minute before the last is late as well


def test_a_moment_that_is_no_instant_fires_nothing() -> None:
    calendar = Calendar("sch_x", trigger("0 * * * *"), 0)
    found = plan(calendar, Upcoming(NOON + MINUTE, 0), backfill_max=1, now=NOON + 2 * MINUTE)
    assert found == Plan(None, None, Upcoming(NOON + HOUR, 0))


@pytest.mark.parametrize("overlap", Overlap)
def test_with_nothing_at_work_a_firing_starts(overlap: Overlap) -> None:
    assert decide(overlap, running=0, waiting=0) == Start()


def test_what_a_firing_does_beside_another_is_its_policy() -> None:
    assert isinstance(decide(Overlap.SKIP, running=1, waiting=0), Skip)
    assert isinstance(decide(Overlap.SKIP, running=0, waiting=1), Skip)
    assert decide(Overlap.REPLACE, running=1, waiting=1) == Start(replaces=True)
    assert decide(Overlap.QUEUE, running=1, waiting=QUEUED_MAX - 1) == Wait()
    assert isinstance(decide(Overlap.QUEUE, running=1, waiting=QUEUED_MAX), Skip)
