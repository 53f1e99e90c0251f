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
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    CancelTask,
    Claim,
    Complete,
    CreateProject,
    Heartbeat,
    Introspect,
    Register,
    Report,
    SubmitTask,
)

from wfhub_scheduler.claim import claim
from wfhub_scheduler.complete import ReceiptCheck, complete
from wfhub_scheduler.core import Core
from wfhub_scheduler.introspect import introspect
from wfhub_scheduler.report import report
from wfhub_scheduler.runners import heartbeat, register
from wfhub_scheduler.submission import cancel_task, create_project, submit_task

SERVICES = frozenset(
    {subjects.API, subjects.SCHEDULER, subjects.PROOF_STORE, subjects.GATEWAY}
)  # any other sender is a runner

R = TypeVar("R", bound=BaseModel)


def subscribe(core: Core, check: ReceiptCheck) -> None:
    def answer(
        command: str,
        request_type: type[R],
        allowed: Callable[[str], bool],
        handler: Callable[[str, R], Awaitable[BaseModel]],
    ) -> None:
        async def admitted(sender: str, request: R) -> BaseModel:
            if not allowed(sender):
                raise Rejected("not-allowed", f"{sender[:64]} may not ask {command}", status=403)
            return await handler(sender, request)

        rpc.serve(core.broker, command, request_type, admitted, queue=subjects.SCHEDULER)

    answer("create_project", CreateProject, is_api, lambda _, asked: create_project(core, asked))
    answer("submit_task", SubmitTask, is_api, lambda _, asked: submit_task(core, asked))
    answer("cancel_task", CancelTask, is_api, lambda _, asked: cancel_task(core, asked))
    answer("introspect", Introspect, is_gateway, lambda _, asked: introspect(core, asked))
    answer("register", Register, is_runner, lambda who, asked: register(core, who, asked))
    answer("claim", Claim, is_runner, lambda who, asked: claim(core, who, asked))
    answer("heartbeat", Heartbeat, is_runner, lambda who, asked: heartbeat(core, who, asked))
    answer("report", Report, is_runner, lambda who, asked: report(core, who, asked))
    answer("complete", Complete, is_runner, lambda who, asked: complete(core, check, who, asked))

    @core.broker.subscriber(subjects.WAKE, decoder=_nothing)
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
