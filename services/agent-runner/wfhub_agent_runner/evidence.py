"""Evidence: what was observed of one agent attempt so far, as it becomes part of its proof.

A proof is asked for in one message, so what was observed has a size, OBSERVED_BYTES_MAX. Most of it
is the task's own words, which are bounded; lists of paths get what room is left, those first that a
reader wants most, and beside each is how many there are.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import to_json
from wfhub_common import digests, limits, messages
from wfhub_common.messages import TaskSpec, Verdict, VerdictStatus

from wfhub_agent_runner.agents.planning import AgentPlan
from wfhub_agent_runner.gitwork.workspaces import BaseCheckout, Lease, Snapshot
from wfhub_agent_runner.sandbox.port import LimitExceeded
from wfhub_agent_runner.set_up import NAME as SETUP
from wfhub_agent_runner.set_up import Done

PUT_BACK_BYTES_MAX = 32 * 1024  # of the paths that set-up commands changed and that were put back
WORD_SHOWN_CHARS = 200  # of an argument that is longer than a command may be: a whole prompt, say

T = TypeVar("T")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass
class Evidence:
    """Becomes RunnerObservations and the artifacts."""

    started_at: str = field(default_factory=_now)
    artifacts: dict[str, tuple[Path, str]] = field(default_factory=dict)  # name → file, type
    plan: AgentPlan | None = None
    agent_version: str = ""
    told: int = 0  # messages to the agent while it ran
    handed_in: bool = False  # asked to stop and hand in what it had
    agent_outcome: str = ""
    exceeded: LimitExceeded | None = None
    base: BaseCheckout | None = None
    lease: Lease | None = None
    set_up: Done | None = None
    snapshot: Snapshot | None = None
    verdict: Verdict = field(default_factory=lambda: Verdict(status=VerdictStatus.NONE))
    base_verdict: Verdict | None = None
    # By who was let out (agent, setup): where to, and how much it used.
    egress: dict[str, dict[str, Any]] = field(default_factory=dict)

    def observed(
        self, runner_id: str, spec: TaskSpec, sandbox: dict[str, Any]
    ) -> messages.RunnerObservations:
        snapshot, base = self.snapshot, self.base
        seen: dict[str, Any] = {"egress": self.egress["agent"]} if "agent" in self.egress else {}
        if self.exceeded is not None:
            seen["exceeded"] = asdict(self.exceeded)
        in_force = spec.limits.in_force().model_dump()
        observed = messages.RunnerObservations(
            runner_id=runner_id,
            agent="command" if spec.agent.argv else spec.agent.name,
            agent_version=self.agent_version,
            agent_argv=tuple(map(_word, self.plan.argv)) if self.plan else (),
            agent_details=self._agent(),
            model=spec.agent.model,
            agent_outcome=self.agent_outcome,
            base_commit=base.commit if base else "",
            base_tree=base.tree if base else "",
            commit=snapshot.commit if snapshot else "",
            tree=snapshot.tree if snapshot else "",
            changes_total=snapshot.changes_total if snapshot else 0,
            ci_files=(),
            ci_files_total=snapshot.ci_files_total if snapshot else 0,
            ci_files_unclear=snapshot.ci_files_unclear if snapshot else "",
            tests_changed_total=snapshot.tests_changed_total if snapshot else 0,
            verdict=self.verdict,
            base_verdict=self.base_verdict,
            sandbox={**sandbox, **seen, "limits_in_force": in_force},
            workspace={"kind": base.kind, "ref": base.ref, **self._set_up()} if base else {},
            started_at=self.started_at,
            finished_at=_now(),
        )
        return _listed(observed, snapshot) if snapshot else observed

    def _agent(self) -> dict[str, Any]:
        if self.plan is None:
            return {}
        entry = self.plan.entry
        return {
            "wire": entry.wire.value,
            **({"messages": self.told} if self.told else {}),
            **({"handed_in": True} if self.handed_in else {}),
            **({"version_locked": entry.version} if entry.version_argv and entry.version else {}),
            **({"context": dict(self.plan.context)} if self.plan.context else {}),
            **(
                {"mcp": {n: list(s.argv) for n, s in self.plan.servers.items()}}
                if self.plan.servers
                else {}
            ),
        }

    def _set_up(self) -> dict[str, Any]:
        if self.set_up is None:
            return {}
        reached = {"egress": self.egress[SETUP]} if SETUP in self.egress else {}
        described = self.set_up.described()
        described["put_back"], _ = _fitting(described["put_back"], PUT_BACK_BYTES_MAX)
        return {"setup": {**described, **reached}}


def _word(word: str) -> str:
    """An argument; of one that is too long to be shown, its beginning and what it was."""
    if len(word) <= limits.COMMAND_CHARS_MAX:
        return word
    whole = word.encode()
    return f"{word[:WORD_SHOWN_CHARS]}… ({len(whole)} bytes, {digests.of_bytes(whole)})"


def _listed(observed: messages.RunnerObservations, of: Snapshot) -> messages.RunnerObservations:
    room = limits.OBSERVED_BYTES_MAX - len(to_json(observed))
    ci_files, room = _fitting(of.ci_files, room)
    tests_changed, room = _fitting(of.tests_changed, room)
    changes, _ = _fitting(of.changes, room)
    return observed.model_copy(
        update={
            "ci_files": tuple(ci_files),
            "tests_changed": tuple(tests_changed),
            "changes": tuple(changes),
        }
    )


def _fitting(items: Iterable[T], room: int) -> tuple[list[T], int]:
    """The first ones, as many as have `room` bytes of JSON, and what is left of it."""
    fit: list[T] = []
    for item in items:
        size = len(to_json(item)) + 1  # a comma
        if size > room:
            break
        fit.append(item)
        room -= size
    return fit, room
