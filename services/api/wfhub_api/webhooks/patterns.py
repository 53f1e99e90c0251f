"""Patterns of event types: `task.state_changed`, `task.*` for all that begin so, `*` for all."""

from collections.abc import Sequence

PATTERN = r"^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$"
PATTERN_CHARS_MAX = 100
PATTERNS_MAX = 32


def wanted(type_: str, patterns: Sequence[str]) -> bool:
    return any(_matches(type_, pattern) for pattern in patterns)


def _matches(type_: str, pattern: str) -> bool:
    if pattern.endswith("*"):
        return type_.startswith(pattern[:-1])
    return type_ == pattern
