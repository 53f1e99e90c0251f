"""Cron in a time zone: the instants at which a five-field expression fires.

cronsim reads the expression and walks the calendar, in local time without a zone; what happens
where a zone's clocks change is decided here, by Debian cron's rules (ADR 0011):

* A wildcard job (its minute or hour field begins with `*`) follows real time: it does not fire
  at local times that a change skips, and fires in both passes of an hour that is repeated.
* Any other job is at a fixed time: one in a skipped hour fires once, at the first instant after
  the gap; one in a repeated hour fires once, in the first pass.

Pure. Instants are aware UTC, whole minutes. Raises: Rejected (`cron-invalid`).
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

from cronsim import CronSim, CronSimError
from wfhub_common.errors import Rejected

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)


def checked(expression: str) -> str:
    """The five fields of an expression or alias. Raises: Rejected, which names the bad field."""
    given = " ".join(expression.split())
    fields = ALIASES.get(given.lower(), given).split()
    if given.startswith("@") and given.lower() not in ALIASES:
        known = ", ".join(["@every 15m", *ALIASES])
        raise _invalid(f"{given[:40]!r} is not known; use one of {known}")
    if len(fields) != len(_FIELDS):
        raise _invalid(
            f"{len(fields)} fields where five are needed: {' '.join(_FIELDS)}, as in '30 2 * * MON'"
        )
    for position, name in enumerate(_FIELDS):
        alone = ["*"] * len(_FIELDS)
        alone[position] = fields[position]
        if not _reads(" ".join(alone)):
            raise _invalid(f"the {name} field {fields[position][:40]!r} is not right", field=name)
    text = " ".join(fields)
    if not _reads(text):  # each field is right by itself, as in '0 0 31 2 *'
        raise _invalid(f"no month named has the day-of-month {fields[2]!r}", field="day-of-month")
    return text


def fields_of(text: str) -> CronSim:
    """The sets that the fields stand for."""
    return CronSim(text, datetime(2000, 1, 1))


def is_wildcard(text: str) -> bool:
    minute, hour = text.split()[:2]
    return minute.startswith("*") or hour.startswith("*")


def next_after(text: str, zone: tzinfo, after: datetime) -> datetime | None:
    """The first instant later than `after`; None: there is none within cronsim's 50 years."""
    try:
        return _next_after(text, zone, after)
    except OverflowError:  # the year 9999 is the calendar's last
        return None


def _next_after(text: str, zone: tzinfo, after: datetime) -> datetime | None:
    if is_wildcard(text):
        return _next_in_real_time(text, zone, after)
    for local in _local_times(text, _local(after, zone)):
        instant = _first_pass(_after_gap(local, zone), zone)
        if instant > after:  # else it is of a first pass, and we stand in the second
            return instant
    return None


def _next_in_real_time(text: str, zone: tzinfo, after: datetime) -> datetime | None:
    # Where clocks are about to go back, local times that passed come again.
    offset, later = _offset(after, zone), _offset(after + _DAY, zone)
    found: datetime | None = None
    for local in _local_times(text, _local(after, zone) - max(offset - later, timedelta())):
        passes = [i for i in _passes(local, zone) if i > after]
        found = min([*passes, *([found] if found else [])], default=None)
        if found is not None and _first_pass(local, zone) > after:
            return found  # whatever follows in local time is later in its first pass already
    return found


def _local_times(text: str, after: datetime) -> Iterator[datetime]:
    """Local times without a zone, later than `after`, in order."""
    try:
        yield from CronSim(text, after)
    except (OverflowError, ValueError):  # the year 9999 is the calendar's last
        return


def _passes(local: datetime, zone: tzinfo) -> list[datetime]:
    """The instants at which clocks show `local`: none in a gap, two where an hour is repeated."""
    instants = {local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return sorted(instant for instant in instants if _local(instant, zone) == local)


def _first_pass(local: datetime, zone: tzinfo) -> datetime:
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def _after_gap(local: datetime, zone: tzinfo) -> datetime:
    while not _passes(local, zone):
        local += _MINUTE
    return local


def _local(instant: datetime, zone: tzinfo) -> datetime:
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def _offset(instant: datetime, zone: tzinfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()


def _reads(text: str) -> bool:
    try:
        fields_of(text)
    except (CronSimError, ValueError):
        return False
    return True


def _invalid(why: str, field: str = "cron") -> Rejected:
    return Rejected("cron-invalid", f"cron: {why}", field=field)
