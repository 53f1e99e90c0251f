"""What the API answers, as frozen dataclasses; `raw` has every field, later ones too.

Times are aware datetimes (`*_at`), durations seconds (`*_s`).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class Task:
    task_id: str
    project: str
    state: str
    reason: str
    message: str
    title: str
    repo: str
    base: str
    branch: str
    commit: str
    verdict: str
    proof_id: str
    attempts: int  # of the agent, lost ones included
    created_at: datetime
    duration_s: float | None  # None in lists
    tokens: int | None
    raw: dict[str, Any]

    @property
    def final(self) -> bool:
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class Submission:
    task_id: str
    state: str
    created: bool


@dataclass(frozen=True)
class Event:
    position: str  # <generation>-<pos>, where to resume after
    type: str
    subject: str
    time: datetime
    data: dict[str, Any]
    raw: dict[str, Any]

    @property
    def final_state(self) -> str | None:
        """The task's final state, if this event is the change to it."""
        to = self.data.get("to")
        return str(to) if self.type == "task.state_changed" and to in FINAL_STATES else None


def task(raw: dict[str, Any]) -> Task:
    spec = raw.get("spec") or {}
    return Task(
        task_id=raw["task_id"],
        project=raw.get("project") or "",
        state=raw["state"],
        reason=raw.get("reason") or "",
        message=raw.get("message") or "",
        title=raw.get("title") or spec.get("title") or "",
        repo=spec.get("repo") or "",
        base=_base_commit(raw) or spec.get("base") or "",
        branch=raw.get("branch") or "",
        commit=raw.get("commit") or "",
        verdict=raw.get("verdict") or "",
        proof_id=raw.get("proof_id") or "",
        attempts=_agent_attempts(raw),
        created_at=_time(raw["created_at"]),
        duration_s=raw.get("duration_s"),
        tokens=raw.get("tokens"),
        raw=raw,
    )


def event(position: str, raw: dict[str, Any]) -> Event:
    return Event(
        position=position,
        type=raw["type"],
        subject=raw.get("subject", ""),
        time=_time(raw["time"]),
        data=raw.get("data") or {},
        raw=raw,
    )


def _agent_attempts(raw: dict[str, Any]) -> int:
    """A listing has no attempts: there it is how many were used up."""
    attempts = raw.get("attempts")
    if attempts is None:
        return raw.get("attempts_used") or 0
    return sum(1 for attempt in attempts if attempt.get("kind") == "agent")


def _base_commit(raw: dict[str, Any]) -> str:
    """What the latest attempt that got so far started from."""
    bases = [a.get("base_commit") or "" for a in raw.get("attempts") or []]
    return next((base for base in reversed(bases) if base), "")


def _time(value: str) -> datetime:
    return datetime.fromisoformat(value.replace("Z", "+00:00"))
