"""Limit policies: what a project's tasks may use, settled when they are submitted. Pure.

What a task asks for may be at most its project's maximum. What it does not say is the project's
default, else the product's as far as the maximum allows. A settled task has all limits said; its
attempts, retries and the scheduler's own bound of an attempt go by these.
Raises: Rejected (422 `limit-above-maximum` with `limit`, `asked`, `maximum`; `limits-invalid`).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from wfhub_common.errors import Rejected
from wfhub_common.messages import LimitChanges, LimitPolicy, Limits, LimitsAsked, TaskSpec

from wfhub_scheduler import stored_json

NONE = LimitPolicy()
_KEPT_MAX = 1024  # answers; most tasks of a project ask for the same
_PRODUCT = {name: value for name, value in Limits() if value is not None}


def settled(spec: TaskSpec, policy: LimitPolicy, project: str) -> TaskSpec:
    for name, message in above(spec, policy, project):
        asked, maximum = getattr(spec.limits, name), getattr(policy.max, name)
        raise Rejected(
            "limit-above-maximum",
            f"limits.{name}: {message}",
            limit=name,
            asked=asked,
            maximum=maximum,
        )
    return spec.model_copy(update={"limits": _in_force(spec.limits, policy)})


def above(spec: TaskSpec, policy: LimitPolicy, project: str) -> list[tuple[str, str]]:
    """(limit, what is wrong) for each that asks for more than there is."""
    return [
        (
            name,
            f"{asked} is more than project {project[:64]!r} allows, which is {most}:"
            " ask for less, or leave it out; its operator can raise it",
        )
        for name, asked, most in _above(spec.limits, policy)
    ]


@lru_cache(_KEPT_MAX)
def _above(asked: LimitsAsked, policy: LimitPolicy) -> tuple[tuple[str, int, int], ...]:
    most = policy.max.said()
    return tuple(
        (name, value, most[name])
        for name, value in asked.said().items()
        if value > most.get(name, value)
    )


@lru_cache(_KEPT_MAX)
def _in_force(asked: LimitsAsked, policy: LimitPolicy) -> LimitsAsked:
    most = policy.max.said()
    unsaid = {name: min(most.get(name, value), value) for name, value in _PRODUCT.items()}
    # A limit that the product has none of is then the maximum.
    return LimitsAsked.model_validate({**most, **unsaid, **policy.default.said(), **asked.said()})


def changed(policy: LimitPolicy, changes: LimitChanges) -> LimitPolicy:
    try:
        return LimitPolicy.model_validate(
            {
                "default": _merged(policy.default, changes.default),
                "max": _merged(policy.max, changes.max),
            }
        )
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, ("limits", *first["loc"])))
        reason = first["msg"].removeprefix("Value error, ")
        raise Rejected("limits-invalid", f"{where}: {reason}") from e


def _merged(limits: LimitsAsked, changes: Mapping[str, int | None]) -> dict[str, int | None]:
    return {**limits.said(), **changes}


def plain(policy: LimitPolicy) -> dict[str, Any]:
    return {"default": policy.default.said(), "max": policy.max.said()}


def to_store(policy: LimitPolicy) -> str:
    return stored_json.dumped(plain(policy))


def stored(value: Any) -> LimitPolicy:
    return LimitPolicy.model_validate(value) if value else NONE
