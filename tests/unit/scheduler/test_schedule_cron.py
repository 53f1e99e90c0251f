"""Cron in a time zone: against a walk minute by minute, and at the days the clocks change."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wfhub_common.errors import Rejected
from wfhub_scheduler.schedules import cron

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
LORD_HOWE, KOLKATA, CAIRO = "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Cairo"
MINUTE = timedelta(minutes=1)
# Instants around which 2026 has a change: local noon before.
CHANGES = [
    (BERLIN, datetime(2026, 3, 28, 11, tzinfo=UTC)),
    (BERLIN, datetime(2026, 10, 24, 10, tzinfo=UTC)),
    (NEW_YORK, datetime(2026, 3, 7, 17, tzinfo=UTC)),
    (NEW_YORK, datetime(2026, 10, 31, 16, tzinfo=UTC)),
    (LORD_HOWE, datetime(2026, 4, 4, 1, tzinfo=UTC)),
    (LORD_HOWE, datetime(2026, 10, 3, 1, tzinfo=UTC)),
    (CAIRO, datetime(2026, 4, 23, 10, tzinfo=UTC)),  # from midnight to one
    (KOLKATA, datetime(2026, 3, 28, 6, tzinfo=UTC)),  # no change at all
]


def local(zone: str, *at: int, fold: int = 0) -> datetime:
    return datetime(*at, tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)  # type: ignore[misc,arg-type]  # at is year, month, …


def fires(text: str, zone: str, first: datetime, last: datetime) -> list[datetime]:
    """The instants in [first, last), by asking for the next one again and again."""
    found, at = [], first - timedelta(microseconds=1)
    while True:
        instant = cron.next_after(text, ZoneInfo(zone), at)
        if instant is None or instant >= last:
            return found
        assert instant > at
        found.append(instant)
        at = instant


def of_day(text: str, zone: str, day: date) -> list[str]:
    """What fires on a local day, as local times."""
    first = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone))
    following = first + timedelta(days=1)
    found = fires(text, zone, first.astimezone(UTC), following.astimezone(UTC))
    return [f"{instant.astimezone(ZoneInfo(zone)):%H:%M%z}" for instant in found]


def walked(text: str, zone: str, first: datetime, last: datetime) -> list[datetime]:
    """The rules once more, minute by minute, as a cron daemon would wake up."""
    fields, wildcard = cron.fields_of(text), cron.is_wildcard(text)

    def matches(at: datetime) -> bool:
        return (
            at.minute in fields.minutes
            and at.hour in fields.hours
            and at.month in fields.months
            and fields.match_day(at.date())
        )

    found, seen = [], set[datetime]()
    before = (first - MINUTE).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    instant = first
    while instant < last:
        now = instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)
        if wildcard:
            due = matches(now)
        else:  # all local times since the last minute, the skipped ones too, each one once
            minutes = int((now - before) / MINUTE)
            new = [before + n * MINUTE for n in range(1, minutes + 1)]  # none: clocks went back
            due = any(matches(at) for at in new if at not in seen)
            seen.update(new)
        if due:
            found.append(instant)
        before = now
        instant += MINUTE
    return found


_minutes = st.sampled_from(["*", "*/15", "*/20", "0", "30", "7,37", "0-10/5", "59", "0,15,30,45"])
_hours = st.sampled_from(["*", "*/2", "*/3", "0", "1", "2", "3", "1-3", "0,2,23", "0-23"])
_days = st.sampled_from(["*", "*", "1-15", "*/2", "L"])
_weekdays = st.sampled_from(["*", "*", "SUN", "sat,sun", "1-5", "5#4"])
EXPRESSIONS = st.tuples(_minutes, _hours, _days, st.just("*"), _weekdays).map(" ".join)


@given(st.sampled_from(CHANGES), EXPRESSIONS)
@settings(max_examples=150, deadline=None)
@example((LORD_HOWE, CHANGES[4][1]), "* 2 * * *")
@example((LORD_HOWE, CHANGES[5][1]), "*/10 */3 * * *")
@example((BERLIN, CHANGES[1][1]), "15,45 2 * * *")
def test_the_next_instants_are_those_of_a_walk_through_the_change(
    change: tuple[str, datetime], text: str
) -> None:
    zone, first = change
    last = first + timedelta(hours=30)
    assert fires(text, zone, first, last) == walked(text, zone, first, last)


@given(
    st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE, KOLKATA, CAIRO, "UTC"]),
    EXPRESSIONS,
    st.datetimes(datetime(2024, 1, 1), datetime(2036, 1, 1), timezones=st.just(UTC)),
    st.timedeltas(timedelta(0), timedelta(days=3)),
)
@settings(max_examples=200, deadline=None)
def test_the_next_instant_is_later_and_none_is_stepped_over(
    zone: str, text: str, after: datetime, more: timedelta
) -> None:
    instant = cron.next_after(text, ZoneInfo(zone), after)
    later = cron.next_after(text, ZoneInfo(zone), after + more)
    assert instant is not None
    assert later is not None
    assert instant > after
    assert later >= instant  # monotonic
    if instant > after + more:
        assert later == instant  # the same from anywhere before it
    assert (instant.second, instant.microsecond) == (0, 0)


@pytest.mark.parametrize(
    ("zone", "day", "text", "expected"),
    [
        # Berlin, 2026-03-29: from 02:00 to 03:00.
        (BERLIN, (2026, 3, 29), "30 2 * * *", ["03:00+0200"]),
        (BERLIN, (2026, 3, 29), "0,30 2 * * *", ["03:00+0200"]),
        (BERLIN, (2026, 3, 29), "0 2,3 * * *", ["03:00+0200"]),
        (BERLIN, (2026, 3, 29), "0 3 * * *", ["03:00+0200"]),
        (BERLIN, (2026, 3, 29), "30 1-3 * * *", ["01:30+0100", "03:00+0200", "03:30+0200"]),
        (BERLIN, (2026, 3, 29), "*/30 2 * * *", []),
        (BERLIN, (2026, 3, 29), "*/30 1-3 * * *",
         ["01:00+0100", "01:30+0100", "03:00+0200", "03:30+0200"]),
        # Berlin, 2026-10-25: from 03:00 back to 02:00.
        (BERLIN, (2026, 10, 25), "30 2 * * *", ["02:30+0200"]),
        (BERLIN, (2026, 10, 25), "0 3 * * *", ["03:00+0100"]),
        (BERLIN, (2026, 10, 25), "*/30 2 * * *",
         ["02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100"]),
        # New York, 2026-03-08 and 2026-11-01, both at 02:00.
        (NEW_YORK, (2026, 3, 8), "15 2 * * *", ["03:00-0400"]),
        (NEW_YORK, (2026, 11, 1), "15 1 * * *", ["01:15-0400"]),
        # Lord Howe: half an hour, 02:00 to 02:30 and back to 01:30.
        (LORD_HOWE, (2026, 10, 4), "15 2 * * *", ["02:30+1100"]),
        (LORD_HOWE, (2026, 10, 4), "45 2 * * *", ["02:45+1100"]),
        (LORD_HOWE, (2026, 4, 5), "45 1 * * *", ["01:45+1100"]),
        (LORD_HOWE, (2026, 4, 5), "15 1 * * *", ["01:15+1100"]),
        (LORD_HOWE, (2026, 4, 5), "*/45 1 * * *", ["01:00+1100", "01:45+1100", "01:45+1030"]),
        # A midnight that does not exist, and a zone where nothing changes.
        (CAIRO, (2026, 4, 24), "0 0 * * *", ["01:00+0300"]),
        (CAIRO, (2026, 4, 24), "*/30 0 * * *", []),
        (KOLKATA, (2026, 3, 29), "30 2 * * *", ["02:30+0530"]),
    ],
)  # fmt: skip
def test_where_clocks_change(
    zone: str, day: tuple[int, int, int], text: str, expected: list[str]
) -> None:
    assert of_day(text, zone, date(*day)) == expected


def test_an_hourly_job_fires_every_hour_of_real_time() -> None:
    for zone in (BERLIN, NEW_YORK):
        first = local(zone, 2026, 1, 1)
        found = fires("0 * * * *", zone, first, first + timedelta(days=365))
        assert len(found) == 365 * 24
        assert {b - a for a, b in pairwise(found)} == {timedelta(hours=1)}


def test_a_daily_job_fires_once_each_local_day() -> None:
    for zone in (BERLIN, NEW_YORK, LORD_HOWE, CAIRO):
        first = local(zone, 2026, 1, 1)
        for text in ("30 2 * * *", "15 1 * * *", "0 0 * * *", "45 1 * * *"):
            found = fires(text, zone, first, first + timedelta(days=365))
            days = [instant.astimezone(ZoneInfo(zone)).date() for instant in found]
            assert len(days) == len(set(days)) == 365


def test_both_days_must_match_only_where_one_begins_with_a_star() -> None:
    week = (datetime(2026, 6, 8, tzinfo=UTC), datetime(2026, 6, 15, tzinfo=UTC))
    assert [at.day for at in fires("0 0 10 * FRI", "UTC", *week)] == [10, 12]
    assert [at.day for at in fires("0 0 */2 * FRI", "UTC", *week)] == []
    assert [at.day for at in fires("0 0 * * 7", "UTC", *week)] == [14]


def test_a_leap_day_is_waited_for() -> None:
    found = cron.next_after("0 0 29 2 *", ZoneInfo(BERLIN), datetime(2026, 1, 1, tzinfo=UTC))
    assert found == local(BERLIN, 2028, 2, 29)
    assert cron.next_after("0 0 29 2 *", ZoneInfo("UTC"), datetime(9999, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("61 * * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 0 0 * *", "day-of-month"),
        ("0 0 1 JANUARY *", "month"),
        ("0 0 * * 8", "day-of-week"),
        ("*/0 * * * *", "minute"),
        ("5-1 * * * *", "minute"),
        ("0 0 31 2 *", "day-of-month"),
        ("\u0661 * * * *", "minute"),
    ],
)
def test_a_bad_expression_is_refused_by_the_name_of_its_field(text: str, field: str) -> None:
    with pytest.raises(Rejected, match=field) as refused:
        cron.checked(text)
    assert refused.value.code == "cron-invalid"
    assert refused.value.fields["field"] == field


@pytest.mark.parametrize("text", ["* * * *", "0 * * * * *", "@reboot", "@every", "", "x" * 200])
def test_what_is_no_expression_at_all_is_refused(text: str) -> None:
    with pytest.raises(Rejected, match="cron: "):
        cron.checked(text)


@given(st.text(max_size=40) | st.from_regex(r"[0-9*/,LW#a-z-]{1,8}( [0-9*/,LW#a-z-]{1,8}){4}"))
@settings(max_examples=300, deadline=None)
def test_any_text_is_either_refused_or_has_instants(text: str) -> None:
    try:
        checked = cron.checked(text)
    except Rejected:
        return
    assert cron.checked(checked) == checked
    found = cron.next_after(checked, ZoneInfo(BERLIN), datetime(2026, 1, 1, tzinfo=UTC))
    assert found is None or found > datetime(2026, 1, 1, tzinfo=UTC)


def test_names_and_aliases_are_read_in_any_case() -> None:
    assert cron.checked("  @Daily ") == "0 0 * * *"
    assert cron.checked("0 9 * jan-mar mon,Wed") == "0 9 * jan-mar mon,Wed"
