"""A lean runner: the product's own runner but for the sandbox, so that thousands of tasks fit.

Register, claims, leases, attempts, spool, delivery, completion and publication are
wfhub_agent_runner's. Doubles: the "sandbox" writes one file and waits; repositories are reached in
this process instead of a helper each. What this runner was told is recorded, a line a thing.
An agent's argv is ("chaos", JSON of {"work_ms", "end": "ok" | "fail" | "fail-first" | "nothing"}).
"""

import asyncio
import io
import json
import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from wfhub_agent_runner import claims, main, publication, registration, toolchains
from wfhub_agent_runner.agents.probing import Versions
from wfhub_agent_runner.attempt import AgentAttempt
from wfhub_agent_runner.delivery import Delivery
from wfhub_agent_runner.finished import Finished, HandingIn
from wfhub_agent_runner.gitwork import access, client
from wfhub_agent_runner.gitwork.client import NOBODY, RepoAccess, Use
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_agent_runner.gitwork.outcomes import PublishResult
from wfhub_agent_runner.gitwork.workspaces import Workspaces
from wfhub_agent_runner.leases import Held, Leases
from wfhub_agent_runner.parts import Parts
from wfhub_agent_runner.sandbox import port
from wfhub_agent_runner.scheduler_link import SchedulerLink
from wfhub_agent_runner.set_up import SetUps
from wfhub_agent_runner.settings import RunnerSettings
from wfhub_agent_runner.spool import Spool
from wfhub_common import broker as rpc
from wfhub_common import log as logs
from wfhub_common import messages, service
from wfhub_common.errors import LeaseLost, WfhubError
from wfhub_common.messages import UnitKind

from chaos.history import History


class Claims(claims.Claims):
    wait_s = 2.0  # the product's is too long beside a TTL of a few seconds
    margin_s = 1.0


class Link(SchedulerLink):
    def __init__(self, broker: Any, runner_id: str, history: History) -> None:
        super().__init__(broker, runner_id)
        self._history, self._who = history, runner_id

    async def complete(self, held: Held, complete: messages.Complete) -> messages.Completed:
        what = {"attempt_id": complete.attempt_id, "outcome": complete.outcome.value}
        self._history.add(self._who, "complete", "invoke", **what)
        try:
            done = await super().complete(held, complete)
        except WfhubError as e:
            self._history.add(self._who, "complete", "fail", **what, error=e.code)
            raise
        told = {"task_state": done.task_state.value, "repeated": done.repeated}
        self._history.add(self._who, "complete", "ok", **what, **told)
        return done


class Repositories(RepoAccess):
    """The access helper's own words, spoken in this process."""

    def _ask(
        self, request: dict[str, Any], *, send: Path | None = None, into: Path | None = None
    ) -> dict[str, Any]:
        writer = io.BytesIO()
        reader = io.BytesIO(send.read_bytes() if send is not None else b"")
        access.answer(request, access.target(request, self.policy), reader, writer)
        writer.seek(0)
        return client._receive(writer, into)


class RecordedWorkspaces(Workspaces):
    def record_in(self, history: History, who: str) -> None:
        self._history, self._who = history, who

    async def publish(
        self, repo: str, bundle: Path, order: messages.PublishOrder, use: Use = NOBODY
    ) -> PublishResult:
        what = {"repo": repo, "branch_ref": order.branch_ref, "commit": order.commit}
        self._history.add(self._who, "publish", "invoke", **what)
        try:
            result = await super().publish(repo, bundle, order, use)
        except WfhubError as e:
            self._history.add(self._who, "publish", "unknown", **what, error=e.code)
            raise
        self._history.add(self._who, "publish", "ok", **what, result=type(result).__name__)
        return result


class Pretend:
    """In the sandbox's place: for one attempt, since how it ends may depend on its number."""

    def __init__(self, assignment: messages.Assignment) -> None:
        self._assignment = assignment

    async def run(
        self, spec: port.SandboxSpec, *, on_output: port.OnOutput, cancel: asyncio.Event
    ) -> port.SandboxResult:
        if spec.argv[0] != "chaos":  # a verification command: what it says is how it ends
            return port.SandboxResult(port.Exited(int("false" in spec.argv[-1])), 0, 0, False)
        plan = json.loads(spec.argv[1])
        await on_output(b"working\n")
        try:
            async with asyncio.timeout(plan["work_ms"] / 1000):
                await cancel.wait()
            return port.SandboxResult(port.Cancelled(), plan["work_ms"], 8, False)
        except TimeoutError:
            pass
        failed = plan["end"] == "fail"
        failed = failed or (plan["end"] == "fail-first" and self._assignment.number == 1)
        if not failed and plan["end"] != "nothing":
            assert spec.upper is not None
            (spec.upper / "result.txt").write_text(f"{self._assignment.task_id}\n")
        return port.SandboxResult(port.Exited(int(failed)), plan["work_ms"], 8, False)

    def describe(self, image: str = "") -> dict[str, Any]:
        return {"backend": "none: a lean runner of a chaos run"}


async def serve(settings: RunnerSettings, history: History, stop: service.Stop) -> None:
    incarnation = secrets.token_hex(8)
    who = settings.runner_id
    scratch = settings.runner_home / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    access_ = Repositories.direct(Policy(file_repos=True))
    workspaces = RecordedWorkspaces(settings.runner_home, access_)
    workspaces.record_in(history, who)
    await workspaces.reap()
    broker = rpc.make_broker(settings, name=who, on_closed=stop)
    await main._connected(broker.start, stop)
    leases = Leases(broker=broker, runner_id=who, incarnation=incarnation)
    headers = {"Authorization": f"Bearer {settings.service_token}"}
    async with httpx.AsyncClient(
        base_url=settings.proofs_url, headers=headers, timeout=main.HTTP_TIMEOUT_S
    ) as http:
        spool = Spool(settings.runner_home / "spool")
        delivery = Delivery(runner_id=who, spool=spool, broker=broker, http=http)
        link = Link(broker, who, history)
        finished = Finished(settings.runner_home / "finished")
        for attempt_id in finished.waiting():  # this one does its work anew
            finished.remove(attempt_id)
        parts = Parts(
            runner_id=who,
            broker=broker,
            link=link,
            workspaces=workspaces,
            sandbox=None,  # type: ignore[arg-type]  # one an attempt, below
            spool=spool,
            delivery=delivery,
            handing_in=HandingIn(finished, delivery, link),
            toolchains=toolchains.of(()),
            python=("python3",),
            gateway_url=settings.gateway_url,
            set_ups=SetUps(workspaces),
            versions=Versions(scratch),  # its agents are commands: none is asked
            secrets=(),
            scratch=scratch,
        )

        async def run(assignment: messages.Assignment) -> None:
            history.note(
                who,
                "assigned",
                attempt_id=assignment.attempt_id,
                task_id=assignment.task_id,
                kind=assignment.kind.value,
                incarnation=incarnation,
            )
            held = leases.hold(assignment)
            try:
                if assignment.kind is UnitKind.PUBLISH:
                    await publication.publish(parts, assignment, held)
                else:
                    own = replace(parts, sandbox=Pretend(assignment))  # type: ignore[arg-type]
                    await AgentAttempt(own, assignment, held).run()
            except LeaseLost:
                history.note(who, "dropped", attempt_id=assignment.attempt_id)
            finally:
                leases.release(assignment.attempt_id)

        claiming = Claims(
            broker=broker,
            leases=leases,
            runner_id=who,
            incarnation=incarnation,
            slots=settings.runner_slots,
            pool=settings.runner_pool,
            run=run,
        )
        registered = await registration.register(settings, broker, incarnation, stop)
        if registered is None:
            return
        leases.takes_token_keys = registered.takes_token_keys
        history.note(who, "registered", incarnation=incarnation, slots=settings.runner_slots)
        if settings.ready_file is not None:
            settings.ready_file.write_text(incarnation)
        working = [
            asyncio.create_task(claiming.loop()),
            asyncio.create_task(leases.keep(every_s=registered.heartbeat_s)),
            asyncio.create_task(registration.again(settings, broker, incarnation, leases, stop)),
            asyncio.create_task(stop.wait()),
        ]
        leftovers = asyncio.create_task(parts.delivery.deliver_leftovers())
        await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
        for task in (*working, leftovers):
            task.cancel()


def start() -> None:
    settings = RunnerSettings.from_env(os.environ)
    logs.configure("lean-runner", level=settings.log_level, format_=settings.log_format)
    began = float(os.environ["CHAOS_BEGAN"])
    history = History(Path(os.environ["CHAOS_RECORDS"]), began=began)
    service.run(lambda stop: serve(settings, history, stop))


if __name__ == "__main__":
    start()
