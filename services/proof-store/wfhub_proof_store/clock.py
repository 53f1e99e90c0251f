"""The time as signed documents write it: RFC 3339, UTC, milliseconds."""

from datetime import UTC, datetime


def now_text() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
