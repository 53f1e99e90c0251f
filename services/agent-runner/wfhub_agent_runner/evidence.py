"""Evidence: what was observed of one agent attempt so far, as it becomes part of its proof."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wfhub_common import messages
from wfhub_common.messages import TaskSpec, Verdict, VerdictStatus

from wfhub_agent_runner import outcomes
from wfhub_agent_runner.agents.planning import AgentPlan
from wfhub_agent_runner.gitwork.workspaces import BaseCheckout, Lease, Snapshot
from wfhub_agent_runner.sandbox.port import LimitExceeded
from wfhub_agent_runner.set_up import NAME as SETUP
from wfhub_agent_runner.set_up import Done


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
        changes = snapshot.changes if snapshot else ()
        seen: dict[str, Any] = {"egress": self.egress["agent"]} if "agent" in self.egress else {}
        if self.exceeded is not None:
            seen["exceeded"] = asdict(self.exceeded)
        limits = spec.limits.in_force().model_dump()
        return messages.RunnerObservations(
            runner_id=runner_id,
            agent="command" if spec.agent.argv else spec.agent.name,
            agent_version=self.agent_version,
            agent_argv=self.plan.argv if self.plan else (),
            agent_details=self._agent(),
            model=spec.agent.model,
            agent_outcome=self.agent_outcome,
            base_commit=base.commit if base else "",
            base_tree=base.tree if base else "",
            commit=snapshot.commit if snapshot else "",
            tree=snapshot.tree if snapshot else "",
            changes=changes,
            changes_total=snapshot.changes_total if snapshot else 0,
            ci_files=snapshot.ci_files if snapshot else (),
            ci_files_total=snapshot.ci_files_total if snapshot else 0,
            ci_files_unclear=snapshot.ci_files_unclear if snapshot else "",
            tests_changed=outcomes.tests_changed([change.path for change in changes]),
            verdict=self.verdict,
            base_verdict=self.base_verdict,
            sandbox={**sandbox, **seen, "limits_in_force": limits},
            workspace={"kind": base.kind, "ref": base.ref, **self._set_up()} if base else {},
            started_at=self.started_at,
            finished_at=_now(),
        )

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
        return {"setup": {**self.set_up.described(), **reached}}
