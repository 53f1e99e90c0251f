"""One agent attempt, from lease to completion.

workspace → agent in a sandbox → commit made outside it → verification on a clean checkout →
artifacts to the proof-store, with receipts → Complete. Each step is told to the scheduler.
Whatever ends it early, its logs and what it changed are kept as artifacts, its processes are
gone, and its writable layer is removed.
Raises: nothing; an attempt always ends in a Complete, or in silence when its lease was lost.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wfhub_common import limits, messages, subjects
from wfhub_common.errors import LeaseLost
from wfhub_common.log import get_logger
from wfhub_common.messages import AttemptState, Verdict

from wfhub_agent_runner import commands as shell
from wfhub_agent_runner import failures, outcomes, shared_caches
from wfhub_agent_runner.agents import context, planning, telling
from wfhub_agent_runner.agents.entry import Wire
from wfhub_agent_runner.egress import EgressProxy
from wfhub_agent_runner.evidence import Evidence
from wfhub_agent_runner.finished import Record
from wfhub_agent_runner.gitwork.client import Use
from wfhub_agent_runner.gitwork.workspaces import (
    About,
    BaseCheckout,
    Layers,
    Lease,
    Snapshot,
)
from wfhub_agent_runner.image_policy import Chosen
from wfhub_agent_runner.leases import Held
from wfhub_agent_runner.logs import AttemptLog
from wfhub_agent_runner.metrics import phase
from wfhub_agent_runner.parts import Parts
from wfhub_agent_runner.relay import GatewayRelay
from wfhub_agent_runner.sandbox import port
from wfhub_agent_runner.set_up import NAME as SETUP
from wfhub_agent_runner.set_up import key_of
from wfhub_agent_runner.verification import verify

log = get_logger(__name__)


class AgentAttempt:
    def __init__(self, parts: Parts, assignment: messages.Assignment, held: Held) -> None:
        self._parts = parts
        self._assigned = assignment
        self._spec = assignment.spec
        self._limits = assignment.spec.limits.in_force()
        self._held = held
        self.metrics = parts.metrics
        self._evidence = Evidence()
        self._image = Chosen()
        self._egress_allowed = parts.egress.of(assignment.project)
        self._caches = shared_caches.of(parts.caches, assignment.project)
        self._at = subjects.AttemptSubject(
            parts.runner_id, assignment.project_id, assignment.task_id, assignment.attempt_id
        )

    async def run(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                scratch = Path(
                    stack.enter_context(tempfile.TemporaryDirectory(dir=self._parts.scratch))
                )
                decision = await self._decided(stack, scratch)
                if self._held.lost:
                    raise LeaseLost("lease-lost", "the scheduler gave the task to another attempt")
                await self._finish(decision)
        except LeaseLost as e:
            self.metrics.lost()
            log.warning("attempt dropped", attempt_id=self._held.attempt_id, reason=e.message)

    async def _decided(self, stack: AsyncExitStack, scratch: Path) -> outcomes.Decision:
        """Run the steps; an error becomes the decision."""
        try:
            return await self._steps(stack, scratch)
        except LeaseLost:
            raise
        except Exception as e:  # noqa: BLE001 - what it was is said in the decision, or logged
            return self._failed(e)

    def _failed(self, error: Exception) -> outcomes.Decision:
        return failures.decision(error, attempt_id=self._held.attempt_id, disk=self._parts.scratch)

    async def _steps(self, stack: AsyncExitStack, scratch: Path) -> outcomes.Decision:
        parts, spec, evidence = self._parts, self._spec, self._evidence
        self._egress_allowed.granted((*spec.egress, *spec.setup_egress))
        evidence.plan = planning.plan(spec.agent, prompt=spec.prompt, python=parts.python)
        await self._step("started", state=AttemptState.RUNNING, runner_id=parts.runner_id)

        evidence.lease = await self._workspace()
        stack.push_async_callback(self._release)
        if spec.setup and (failed := await self._set_up(scratch, evidence.lease)):
            return failed
        lease = evidence.lease
        if spec.verify_base and spec.verify:
            evidence.base_verdict = await self._verified(scratch, lease, None, kind="base-verify")
            await self._step("base-verified", status=evidence.base_verdict.status.value)

        around = await asyncio.to_thread(context.found_in, lease.layers.lower_dirs[0])
        plan = evidence.plan = planning.plan(
            spec.agent,
            prompt=spec.prompt,
            python=parts.python,
            around=around,
            servers=self._assigned.mcp,
        )
        ran, traffic = await self._agent(scratch, plan, lease)
        ended = "handed-in" if evidence.handed_in else port.described(ran.outcome)
        evidence.agent_outcome = ended
        if isinstance(ran.outcome, port.LimitExceeded):
            evidence.exceeded = ran.outcome
        await self._step(
            "agent-finished",
            outcome=evidence.agent_outcome,
            duration_ms=ran.duration_ms,
            model_requests=traffic.requests,
        )

        about = About(
            task_id=self._assigned.task_id,
            attempt_id=self._assigned.attempt_id,
            title=spec.title,
            prompt=spec.prompt,
            when=datetime.now(UTC),
        )
        snapshot = evidence.snapshot = await parts.workspaces.snapshot(lease, about)
        if snapshot is not None:
            self._keep_snapshot(snapshot)
            await self._step("committed", commit=snapshot.commit, changes=snapshot.changes_total)
        early = outcomes.of_agent_run(
            ran.outcome,
            changed=snapshot is not None,
            traffic=traffic,
            has_verification=bool(spec.verify),
            lives_off_a_model=plan.entry.wire is not Wire.ANY,
            handed_in=evidence.handed_in,
        )
        if early is not None or snapshot is None:
            assert early is not None
            return early

        if spec.verify:
            await self._step(
                "verify-started", state=AttemptState.VERIFYING, commands=len(spec.verify)
            )
            evidence.verdict = await self._verified(scratch, lease, snapshot, kind="verify")
            await self._step("verify-finished", status=evidence.verdict.status.value)
        if self._held.cancel.is_set():
            return outcomes.Decision(AttemptState.CANCELLED, "cancelled", "stopped as asked")
        return outcomes.of_verdict(evidence.verdict)

    @phase("workspace")
    async def _workspace(self) -> Lease:
        parts, spec = self._parts, self._spec
        use = Use(self._assigned.project, apply=spec.apply)
        base = self._evidence.base = await parts.workspaces.prepare(spec.repo, spec.base, use)
        await self._step("workspace-ready", base_commit=base.commit, ref=base.ref)
        await self._choose_image(base)
        return await parts.workspaces.lease(base, self._assigned.attempt_id)

    async def _choose_image(self, base: BaseCheckout) -> None:
        """Raises: Rejected for one that the task may not have."""
        images, asked = self._parts.images, self._spec.image
        if images is None:
            self._parts.sandbox.describe(asked)  # which refuses any
        else:
            found = await self._parts.workspaces.image_of(base)
            self._image = images.chosen(self._assigned.project, task=asked, repository=found)

    async def _release(self) -> None:
        assert self._evidence.lease is not None
        await self._parts.workspaces.release(self._evidence.lease)

    @phase("set-up")
    async def _set_up(self, scratch: Path, lease: Lease) -> outcomes.Decision | None:
        """The evidence's lease is on what was set up, or the decision says why not."""
        parts, spec = self._parts, self._spec

        async def run(layers: Layers) -> tuple[messages.CommandResult, ...]:
            await self._step("setup-started", commands=len(spec.setup))
            entries = tuple(dict.fromkeys((*spec.egress, *spec.setup_egress)))
            async with (
                self._egress(scratch, SETUP, entries) as proxy,
                self._log(scratch, SETUP) as out,
            ):
                within = self._surroundings(self._limits.setup_s, proxy)
                return await shell.run_all(
                    spec.setup,
                    layers,
                    within,
                    log=out,
                    log_name=f"{SETUP}.log",
                    cancel=self._held.cancel,
                )

        sandbox = parts.sandbox.describe(self._image.image)
        words = (sandbox["backend"], sandbox.get("image_digest", ""))
        words += ("debuggers",) if self._assigned.debuggers else ()
        environment = " ".join(filter(None, words))
        key = key_of(self._assigned, lease, parts.toolchains, environment)
        done = await parts.set_ups.on(lease, key, run, self._held.cancel)
        self._evidence.lease, self._evidence.set_up = done.lease, done
        if done.cancelled:
            return outcomes.Decision(AttemptState.CANCELLED, "cancelled", "stopped as asked")
        if done.lease.set_up is None:
            return outcomes.of_set_up(done.results[-1])
        await self._step(
            "setup-ready", reused=not done.results, put_back=len(done.lease.set_up.left)
        )
        return None

    def _surroundings(self, wall_s: float, proxy: EgressProxy | None = None) -> shell.Surroundings:
        return shell.Surroundings(
            self._parts.sandbox,
            self._limits,
            wall_s,
            self._parts.toolchains.env,
            self._parts.toolchains.binds,
            self._caches,
            proxy.socket_path if proxy else None,
            self._image.image,
            self._assigned.debuggers,
        )

    @phase("agent")
    async def _agent(
        self, scratch: Path, plan: planning.AgentPlan, lease: Lease
    ) -> tuple[port.SandboxResult, outcomes.ModelTraffic]:
        parts, spec = self._parts, self._spec
        relay = GatewayRelay(
            socket_path=scratch / "gateway.sock",
            gateway_url=parts.gateway_url,
            token=self._assigned.token,
            inbox=self._held.inbox,
        )
        async with (
            relay,
            self._egress(scratch, "agent", spec.egress) as proxy,
            self._log(scratch, "agent") as agent_log,
        ):
            sandbox_spec = port.SandboxSpec(
                argv=plan.argv,
                lower=lease.layers.lower_dirs[0],
                extra_lowers=lease.layers.lower_dirs[1:],
                upper=lease.layers.upper,
                work=lease.layers.work,
                copy=lease.layers.copy,
                limits=self._limits,
                wall_s=self._limits.run_s,
                env={**parts.toolchains.env, **plan.env},
                binds=parts.toolchains.binds,
                caches=self._caches,
                files=plan.files,
                gateway_socket=relay.socket_path,
                egress_socket=proxy.socket_path if proxy else None,
                image=self._image.image,
                debuggers=self._assigned.debuggers,
                idle_s=self._limits.idle_s,
                signs=lambda: max(relay.active_at(), proxy.active_at() if proxy else 0.0),
                # What it writes after its lease is lost is nobody's.
                grace_s=lambda: 0.0 if self._held.lost else port.STOP_GRACE_S,
            )
            version = await parts.versions.of(
                plan.entry, parts.sandbox, sandbox_spec, self._held.cancel
            )
            self._evidence.agent_version = version
            await self._step(
                "agent-started",
                agent=plan.entry.name,
                version=version,
                model=spec.agent.model or "",
            )
            async with self._held.inbox.open(plan.entry, self._held.cancel) as stop:
                ran = await parts.sandbox.run(sandbox_spec, on_output=agent_log.write, cancel=stop)
        port.refuse_taken_away(ran.outcome)
        inbox, artifacts = self._held.inbox, self._evidence.artifacts
        self._evidence.told = len(inbox.messages)
        self._evidence.handed_in = inbox.hand_in.is_set() and not self._held.cancel.is_set()
        if told := await telling.kept(plan.entry.parser, artifacts["agent.log"][0], scratch):
            artifacts[telling.NAME] = (told, telling.MEDIA_TYPE)
        traffic = outcomes.ModelTraffic(
            relay.requests, relay.answered, relay.last_error, relay.last_status
        )
        return ran, traffic

    @asynccontextmanager
    async def _egress(
        self, scratch: Path, kind: str, entries: tuple[str, ...]
    ) -> AsyncIterator[EgressProxy | None]:
        """A proxy to `entries`; None when there are none."""
        if not entries:
            yield None
            return
        policy = self._egress_allowed.granted(entries)
        name = "egress.log" if kind == "agent" else f"{kind}-egress.log"
        proxy = EgressProxy(
            socket_path=scratch / f"{kind}-egress.sock", log_path=scratch / name, policy=policy
        )
        try:
            async with proxy:
                yield proxy
        finally:
            self._evidence.egress[kind] = {"allowed": list(entries), **proxy.log.totals()}
            self._evidence.artifacts[name] = (proxy.log.path, "application/x-ndjson")

    @phase("verification")
    async def _verified(
        self, scratch: Path, lease: Lease, result: Snapshot | None, *, kind: str
    ) -> Verdict:
        """On a clean checkout of the result, or of the base."""
        parts, spec = self._parts, self._spec
        checkout = await parts.workspaces.clean(lease, kind, result)
        async with self._log(scratch, kind) as out:
            verdict = await verify(
                spec.verify,
                checkout,
                self._surroundings(self._limits.verify_s),
                log=out,
                log_name=f"{kind}.log",
                cancel=self._held.cancel,
            )
        self.metrics.verified(verdict.status)
        return verdict

    @asynccontextmanager
    async def _log(self, scratch: Path, kind: str) -> AsyncIterator[AttemptLog]:
        path = scratch / f"{kind}.log"
        secrets = (*self._parts.secrets, self._assigned.token)
        async with AttemptLog(
            kind, path, at=self._at, broker=self._parts.broker, secrets=secrets
        ) as attempt_log:
            yield attempt_log
        self._evidence.artifacts[f"{kind}.log"] = (path, "text/plain; charset=utf-8")

    def _keep_snapshot(self, snapshot: Snapshot) -> None:
        artifacts = self._evidence.artifacts
        artifacts["result.patch"] = (snapshot.patch, "text/x-diff")
        artifacts[messages.BUNDLE_ARTIFACT] = (snapshot.bundle, "application/x-git-bundle")

    async def _step(self, name: str, **fields: Any) -> None:
        await self._parts.link.step(self._held, name, **fields)

    @phase("hand-in")
    async def _finish(self, decision: outcomes.Decision) -> None:
        artifacts = self._evidence.artifacts
        items, unkept = await asyncio.to_thread(self._parts.spool.put_all, artifacts, self._at)
        if unkept is not None and decision.outcome is AttemptState.WON:
            decision = self._failed(unkept)  # a result without its evidence is none
        sandbox = self._parts.sandbox.describe(self._image.image) | self._image.described()
        sandbox |= {"caches": list(self._caches), "debuggers": self._assigned.debuggers}
        observed = self._evidence.observed(self._parts.runner_id, self._spec, sandbox)
        complete = messages.Complete(
            attempt_id=self._held.attempt_id,
            outcome=decision.outcome,
            reason=decision.reason[:200],
            message=decision.message[: limits.MESSAGE_CHARS_MAX],
            retryable=decision.retryable,
            observed=observed,
        )
        told = await self._parts.handing_in.hand_in(self._held, Record(complete, items))
        self.metrics.ended(self._assigned.kind, told.complete)
        log.info(
            "attempt completed",
            attempt_id=self._held.attempt_id,
            outcome=told.complete.outcome.value,
            reason=told.complete.reason,
            task_state=told.answer.task_state.value,
        )
