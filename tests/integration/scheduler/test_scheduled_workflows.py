"""Schedules that start workflows: what a firing is, how long it is at work, what is refused."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import schedule_lab
from schedule_lab import TASK, Lab
from wfhub_common.errors import Rejected
from wfhub_common.messages import FiringOutcome
from wfhub_scheduler.workflows.advancing import Advancing

DOCUMENT: dict[str, Any] = {
    "name": "nightly upgrade",
    "on_failure": "continue",
    "defaults": {"repo": "/srv/demo"},
    "tasks": {
        "zeta": {"prompt": "first in the document"},
        "alpha": {"needs": ["zeta"], "needs_policy": "all_done", "prompt": "last"},
    },
}


@pytest.fixture
async def lab(database_url: str) -> AsyncIterator[Lab]:
    async with schedule_lab.opened(database_url) as made:
        yield made


async def _workflows(lab: Lab) -> list[tuple[str, str]]:
    rows = await lab.pg.fetch("SELECT workflow_id, state FROM sched.workflow ORDER BY created_at")
    return [(row["workflow_id"], row["state"]) for row in rows]


async def _end_what_is_ready(lab: Lab) -> None:
    for task_id in await lab.tasks("ready"):
        await lab.end(task_id)
    await Advancing(lab.one).turn()


async def test_a_firing_starts_the_workflow_with_its_tasks_in_their_order(lab: Lab) -> None:
    await lab.put(workflow=DOCUMENT)
    await lab.due()
    await lab.turn()
    ((workflow_id, state),) = await _workflows(lab)
    assert state == "running"
    rows = await lab.pg.fetch(
        "SELECT n.name, t.state, t.submitted_by FROM sched.workflow_node n"
        " JOIN sched.task t USING (task_id) ORDER BY n.number"
    )
    by = "schedule:nightly"
    assert [tuple(row) for row in rows] == [("zeta", "ready", by), ("alpha", "blocked", by)]
    fired = await lab.pg.fetchrow("SELECT * FROM sched.api_firing")
    assert (fired["workflow_id"], fired["workflow_state"]) == (workflow_id, "running")
    assert fired["task_id"] is None
    (event,) = await lab.events("schedule.fired")
    assert json.loads(event["data"])["workflow_id"] == workflow_id


async def test_a_firing_is_at_work_until_the_last_task_has_ended(lab: Lab) -> None:
    await lab.put(workflow=DOCUMENT, overlap="skip")
    for outcomes in (["fired"], ["fired", "skipped"]):
        await lab.due()
        await lab.turn()
        assert [outcome for outcome, _ in await lab.firings()] == outcomes
        assert [state for _, state in await _workflows(lab)] == ["running"]
        await _end_what_is_ready(lab)  # zeta, then alpha
    assert [state for _, state in await _workflows(lab)] == ["failed"]
    await lab.due()
    await lab.turn()
    assert (await lab.firings())[-1] == ("fired", "")


async def test_queue_starts_the_next_workflow_when_the_one_before_has_ended(lab: Lab) -> None:
    await lab.put(workflow=DOCUMENT, overlap="queue")
    for _ in range(2):
        await lab.due()
        await lab.turn()
    assert await lab.firings() == [("fired", ""), ("waiting", "overlap")]
    await _end_what_is_ready(lab)
    await lab.turn()
    assert (await lab.firings())[1] == ("waiting", "overlap")  # alpha is not over
    await _end_what_is_ready(lab)
    await lab.turn()
    assert await lab.firings() == [("fired", ""), ("fired", "")]
    assert [state for _, state in await _workflows(lab)] == ["failed", "running"]


async def test_replace_cancels_the_whole_workflow_clean_ups_too(lab: Lab) -> None:
    await lab.put(workflow=DOCUMENT, overlap="replace")
    for _ in range(2):
        await lab.due()
        await lab.turn()
    assert await lab.firings() == [("fired", ""), ("fired", "")]
    assert [state for _, state in await _workflows(lab)] == ["cancelled", "running"]
    assert len(await lab.tasks("cancelled")) == len(await lab.tasks("ready", "blocked")) == 2


async def test_by_hand_it_fires_once_a_key_and_names_the_workflow(lab: Lab) -> None:
    await lab.put(workflow=DOCUMENT)
    fired = await lab.fire("k1")
    again = await lab.fire("k1")
    assert fired.outcome is FiringOutcome.FIRED
    assert fired.workflow_id == again.workflow_id == (await _workflows(lab))[0][0]
    assert (fired.created, again.created, fired.task_id) == (True, False, None)


async def test_a_workflow_that_finds_the_queue_full_leaves_nothing_and_waits(lab: Lab) -> None:
    await lab.pg.execute("UPDATE sched.project SET queue_limit = 3")
    await lab.put(name="first", workflow=DOCUMENT)
    await lab.put(name="second", workflow=DOCUMENT)
    await lab.due()
    await lab.turn()
    assert sorted(await lab.firings()) == [("fired", ""), ("waiting", "queue-full")]
    assert len(await _workflows(lab)) == 1
    assert len(await lab.tasks()) == 2
    for _ in range(2):
        await _end_what_is_ready(lab)
    await lab.pg.execute("UPDATE sched.firing SET retry_at = now() WHERE retry_at IS NOT NULL")
    await lab.turn()
    assert await lab.firings() == [("fired", ""), ("fired", "")]


async def test_the_same_document_again_changes_nothing_and_another_is_a_version(lab: Lab) -> None:
    assert (await lab.put(workflow=DOCUMENT)).created
    assert not (await lab.put(workflow=DOCUMENT)).changed
    other = await lab.put(workflow={**DOCUMENT, "on_failure": "fail"})
    assert (other.changed, other.version) == (True, 2)
    assert (await lab.put()).version == 3  # it starts a task from now on
    fired = await lab.fire()
    assert (fired.task_id is None, fired.workflow_id) == (False, None)


def _with(task: dict[str, Any]) -> dict[str, Any]:
    return {**DOCUMENT, "tasks": {"zeta": task}}


@pytest.mark.parametrize(
    ("workflow", "code", "path"),
    [
        (_with({"needs": ["nobody"]}), "workflow-invalid", "tasks.zeta.needs[0]"),
        (_with({"needs": ["zeta"]}), "workflow-invalid", "tasks.zeta.needs[0]"),
        (_with({"run_at": "2100-01-01T00:00:00Z"}), "workflow-invalid", "tasks.zeta.run_at"),
        (_with({"limits": {"run_s": 80_000}}), "workflow-invalid", "tasks.zeta.limits.run_s"),
        ({"name": "none", "tasks": {}}, "workflow-invalid", "tasks"),
    ],
)
async def test_a_workflow_that_could_not_be_submitted_is_refused_with_its_schedule(
    lab: Lab, workflow: dict[str, Any], code: str, path: str
) -> None:
    await lab.pg.execute("""UPDATE sched.project SET limits = '{"max": {"run_s": 60000}}'""")
    with pytest.raises(Rejected) as refused:
        await lab.put(workflow=workflow)
    assert refused.value.code == code
    assert path in [fault["path"] for fault in refused.value.fields["faults"]]
    assert await lab.pg.fetchval("SELECT count(*) FROM sched.schedule") == 0


async def test_a_schedule_has_a_task_or_a_workflow(lab: Lab) -> None:
    for what in ({"task": TASK, "workflow": DOCUMENT}, {"task": None}):
        with pytest.raises(ValueError, match="one of both"):
            await lab.put(**what)
