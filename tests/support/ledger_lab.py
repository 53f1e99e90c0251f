"""Test support: exchanges with models as the gateway's ledger is told of them."""

from datetime import UTC, datetime

from wfhub_common import ids
from wfhub_common.messages import SpendingLimit
from wfhub_llm_gateway.ledger import Opening


def opening(*limits: SpendingLimit, attempt_id: str = "") -> Opening:
    """The attempt's next; of a new one, unless it is named. An attempt is its task's only one."""
    attempt_id = attempt_id or ids.new_attempt_id()
    return Opening(
        attempt_id=attempt_id,
        task_id=f"tsk_of_{attempt_id}",
        project_id="prj_x",
        provider="p",
        model="m",
        replayed=False,
        stream=True,
        request_digest="",
        request_bytes=0,
        started_at=datetime.now(UTC),
        prompt=10,
        completion=20,
        limits=limits,
    )
