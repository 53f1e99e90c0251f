"""Which command is answered by what, and who may ask it.

The broker's permissions say who can speak as whom (identities.py); here it is said once more, so
that a mistake there does not become a runner that submits tasks.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from faststream.nats import NatsMessage
from pydantic import BaseModel
from wfhub_common import broker as rpc
from wfhub_common import subjects
from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.messages import (
    CancelTask,
    CancelWorkflow,
    Claim,
    Complete,
    CompleteMany,
    CreateProject,
    DeleteSchedule,
    DiscardDeadLetter,
    DrainRunner,
    FireSchedule,
    Heartbeat,
    Introspect,
    IntrospectMany,
    PauseSchedule,
    PreviewSchedule,
    PutSchedule,
    Register,
    ReplayDeadLetter,
    Report,
    ReviewTask,
    SteerTask,
    SubmitTask,
    SubmitTasks,
    SubmitWorkflow,
    UpdatePool,
    UpdateProject,
)

from wfhub_scheduler import dead_letters
from wfhub_scheduler.cancel import cancel_task
from wfhub_scheduler.claim import claim
from wfhub_scheduler.complete import ReceiptCheck, complete, complete_many
from wfhub_scheduler.core import Core
from wfhub_scheduler.drains import drain_runner
from wfhub_scheduler.heartbeats import heartbeat
from wfhub_scheduler.introspect import introspect, introspect_many
from wfhub_scheduler.pools import update_pool
from wfhub_scheduler.projects import create_project, update_project
from wfhub_scheduler.replays import Replays
from wfhub_scheduler.report import report
from wfhub_scheduler.reviews import review_task
from wfhub_scheduler.runners import register
from wfhub_scheduler.schedules.commands import (
    delete_schedule,
    fire_schedule,
    pause_schedule,
    preview_schedule,
    put_schedule,
)
from wfhub_scheduler.steering import steer_task
from wfhub_scheduler.submission import submit_task, submit_tasks
from wfhub_scheduler.workflows.stopping import cancel_workflow
from wfhub_scheduler.workflows.submission import submit_workflow

SERVICES = frozenset(
    {subjects.API, subjects.SCHEDULER, subjects.PROOF_STORE, subjects.GATEWAY}
)  # any other sender is a runner

# Each idle runner's waits here. One that found no place would be answered after its runner gave up.
CLAIMS_WAITING_MAX = 4096

R = TypeVar("R", bound=BaseModel)


def subscribe(core: Core, check: ReceiptCheck) -> None:
    replays = Replays(core, {})

    async def failed(failure: rpc.Failure) -> None:
        await dead_letters.count_request(core, failure)

    def answer(
        command: str,
        request_type: type[R],
        allowed: Callable[[str], bool],
        handler: Callable[[str, R], Awaitable[BaseModel]],
        *,
        workers: int = rpc.RPC_WORKERS_MAX,
    ) -> None:
        async def admitted(sender: str, request: R) -> BaseModel:
            outcome = "failed"
            try:
                if not allowed(sender):
                    said = f"{sender[:64]} may not ask {command}"
                    raise Rejected("not-allowed", said, status=403)
                reply = await handler(sender, request)
                outcome = "answered"
                return reply
            except WfhubError:
                outcome = "refused"
                raise
            finally:
                core.metrics.answered(command, outcome)

        async def again(sender: str, body: bytes) -> BaseModel:
            return await admitted(sender, rpc.parsed(request_type, body))

        replays.commands[command] = again
        rpc.serve(
            core.broker,
            command,
            request_type,
            admitted,
            queue=subjects.SCHEDULER,
            workers=workers,
            on_failure=failed,
        )

    answer("create_project", CreateProject, is_api, lambda _, asked: create_project(core, asked))
    answer("update_project", UpdateProject, is_api, lambda _, asked: update_project(core, asked))
    answer("update_pool", UpdatePool, is_api, lambda _, asked: update_pool(core, asked))
    answer("drain_runner", DrainRunner, is_api, lambda _, asked: drain_runner(core, asked))
    answer("submit_task", SubmitTask, is_api, lambda _, asked: submit_task(core, asked))
    answer("submit_tasks", SubmitTasks, is_api, lambda _, asked: submit_tasks(core, asked))
    answer("cancel_task", CancelTask, is_api, lambda _, asked: cancel_task(core, asked))
    answer("review_task", ReviewTask, is_api, lambda _, asked: review_task(core, asked))
    answer("steer_task", SteerTask, is_api, lambda _, asked: steer_task(core, asked))
    answer("submit_workflow", SubmitWorkflow, is_api, lambda _, asked: submit_workflow(core, asked))
    answer("cancel_workflow", CancelWorkflow, is_api, lambda _, asked: cancel_workflow(core, asked))
    answer("replay_dead_letter", ReplayDeadLetter, is_api, lambda _, asked: replays.replay(asked))
    answer(
        "discard_dead_letter", DiscardDeadLetter, is_api, lambda _, asked: replays.discard(asked)
    )
    answer("put_schedule", PutSchedule, is_api, lambda _, asked: put_schedule(core, asked))
    answer("pause_schedule", PauseSchedule, is_api, lambda _, asked: pause_schedule(core, asked))
    answer("fire_schedule", FireSchedule, is_api, lambda _, asked: fire_schedule(core, asked))
    answer("delete_schedule", DeleteSchedule, is_api, lambda _, asked: delete_schedule(core, asked))
    answer(
        "preview_schedule", PreviewSchedule, is_api, lambda _, asked: preview_schedule(core, asked)
    )
    answer("introspect", Introspect, is_gateway, lambda _, asked: introspect(core, asked))
    answer(
        "introspect_many",
        IntrospectMany,
        is_gateway,
        lambda _, asked: introspect_many(core, asked),
    )
    answer("register", Register, is_runner, lambda who, asked: register(core, who, asked))
    answer(
        "claim",
        Claim,
        is_runner,
        lambda who, asked: claim(core, who, asked),
        workers=CLAIMS_WAITING_MAX,
    )
    answer("heartbeat", Heartbeat, is_runner, lambda who, asked: heartbeat(core, who, asked))
    answer("report", Report, is_runner, lambda who, asked: report(core, who, asked))
    answer("complete", Complete, is_runner, lambda who, asked: complete(core, check, who, asked))
    answer(
        "complete_many",
        CompleteMany,
        is_runner,
        lambda who, asked: complete_many(core, check, who, asked),
    )

    @core.broker.subscriber(subjects.WAKE, decoder=_nothing, no_reply=True)
    async def woken(_body: bytes) -> None:
        core.units.ring()


def is_api(sender: str) -> bool:
    return sender == subjects.API


def is_gateway(sender: str) -> bool:
    return sender == subjects.GATEWAY


def is_runner(sender: str) -> bool:
    return sender not in SERVICES


async def _nothing(message: NatsMessage) -> bytes:
    return bytes(message.body)
