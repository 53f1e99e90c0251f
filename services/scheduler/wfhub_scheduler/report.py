"""Command `report`: a live attempt's progress, as events; the answer tells of a cancel.

Reports that come at the same time share a transaction, each answered for itself.
Raises: LeaseLost; Rejected (`step-too-large`, `attempt-backwards`).
"""

from collections.abc import Sequence

from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.messages import Report, Reported

from wfhub_scheduler import stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.transitions import Transitions

STEP_BYTES_MAX = 16 * 1024  # an event is a line to read; what is long is an artifact
GROUP_REPORTS_MAX = 200  # what one transaction takes on

Asked = tuple[str, Report]  # by whom


async def report(core: Core, sender: str, command: Report) -> Reported:
    size = len(stored_json.dumped(command.fields))
    if size > STEP_BYTES_MAX:
        raise Rejected(
            "step-too-large",
            f"the step's fields are {size} bytes, the limit is {STEP_BYTES_MAX}: store an artifact",
            status=413,
        )
    group = core.grouped("report", _report_group, max_items=GROUP_REPORTS_MAX)
    return await group((sender, command))


async def _report_group(core: Core, group: Sequence[Asked]) -> list[Reported | WfhubError]:
    async def work(tx: Tx) -> list[Reported | WfhubError]:
        ids = {stored_json.clean(command.attempt_id) for _, command in group}
        moves = await Transitions.of_attempts(tx, ids)
        answers: list[Reported | WfhubError] = []
        for sender, command in group:
            step = {**command.fields, "step": command.step}
            try:
                task = moves.report(command.attempt_id, sender, command.state, step)
            except WfhubError as e:
                answers.append(e)
            else:
                answers.append(Reported(cancel=task.stopping))
        await moves.write()
        return answers

    return await core.commit(work)
