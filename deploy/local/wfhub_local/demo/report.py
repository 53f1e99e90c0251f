"""What a run of the demo came to, as facts and as lines for people. Pure."""

from dataclasses import dataclass
from typing import Any

from wfhub_local.demo.modes import Mode


@dataclass(frozen=True)
class Outcome:
    """`task` is what `wfhub run --json` said, `status` what `wfhub status --json` did;
    `verified` what `wfhub proof verify --json` said without any service, None without a proof."""

    mode: Mode
    task: dict[str, Any]
    status: dict[str, Any]
    verified: dict[str, Any] | None
    published: dict[str, str]  # ref → commit, in the repository, of this task
    diff: str

    @property
    def succeeded(self) -> bool:
        """The defect is repaired, shown to have been there before, and proven."""
        return (
            self.task["state"] == "succeeded"
            and _status(self.verdict("base_verdict")) == "failed"
            and _status(self.verdict("verdict")) == "passed"
            and self.task["commit"] in self.published.values()
            and self.verified is not None
            and self.verified.get("verified") is True
            and self.verified.get("commit") == self.task["commit"]
        )

    @property
    def failed_honestly(self) -> bool:
        """The task ended as failed, nothing was published, and no proof says otherwise."""
        return (
            self.task["state"] == "failed"
            and bool(self.task["reason"])
            and not self.published
            and self.verified is None
        )

    @property
    def as_expected(self) -> bool:
        return self.succeeded or (self.failed_honestly and not self.mode.must_succeed)

    def verdict(self, which: str) -> dict[str, Any] | None:
        """`verdict` or `base_verdict` of the last agent attempt."""
        agents = [a for a in self.status.get("attempts") or [] if a.get("kind") == "agent"]
        return (agents[-1].get(which) or None) if agents else None


def lines(outcome: Outcome) -> list[str]:
    task, verified = outcome.task, outcome.verified
    facts = [
        ("mode", f"{outcome.mode.name}: the model's words are {outcome.mode.words}"),
        ("task", f"{task['task_id']} {task['state']} {_why(task)}".rstrip()),
        ("before", _described(outcome.verdict("base_verdict"))),
        ("after", _described(outcome.verdict("verdict"))),
        *(("published", f"{ref} {commit}") for ref, commit in sorted(outcome.published.items())),
        ("proof", _proof_line(verified)),
        *(("", label) for label in (verified or {}).get("labels", ())),
        ("end", _end(outcome)),
    ]
    shown = [f"{name:>10}  {value}" for name, value in facts]
    return ["", *(outcome.diff.splitlines() or ["(nothing was published: no diff)"]), "", *shown]


def _end(outcome: Outcome) -> str:
    if outcome.succeeded:
        return "the defect is repaired, verified outside of the agent's sandbox, and proven"
    if outcome.failed_honestly:
        expected = "as expected" if not outcome.mode.must_succeed else "unexpectedly"
        return f"the task failed, {expected}, and said so: no branch, no proof"
    return "NOT as it should be: see above"


def _why(task: dict[str, Any]) -> str:
    return ": ".join(part for part in (task["reason"], task["message"]) if part)


def _proof_line(verified: dict[str, Any] | None) -> str:
    if verified is None:
        return "none: only a won attempt is sealed"
    if not verified.get("verified"):
        return f"NOT VERIFIED: {verified.get('why', '')}"
    return (
        f"{verified['proof_id']} verified offline, after the stack had ended: "
        f"{verified['exchanges_count']} exchanges with a model, "
        f"{verified['replayed_count']} of them replayed"
    )


def _described(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "verification did not run"
    ends = [
        f"`{command['command']}` "
        + (f"→ {command['exit_code']}" if command["exit_code"] is not None else command["outcome"])
        for command in verdict.get("commands") or []
    ]
    return " ".join([f"verification {verdict['status']}", *ends])


def _status(verdict: dict[str, Any] | None) -> str:
    return str((verdict or {}).get("status", "none"))
