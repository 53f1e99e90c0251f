"""Fair shares: fifty projects, one of which floods, on several schedulers."""

import asyncio
from collections import Counter

from scheduler_hub import SPEC, Hub, Runner, scheduler
from sqlalchemy import text
from wfhub_common import db, subjects
from wfhub_common.messages import (
    AttemptState,
    Complete,
    CreateProject,
    Project,
    SubmitTask,
    SubmitTasks,
    SubmittedTasks,
)
from wfhub_scheduler import fairness

PROJECTS = 50
RUNNING_LIMIT = 4
TURNS = 30  # of each project, if all is fair


async def submit(hub: Hub, project: str, count: int) -> None:
    for start in range(0, count, 500):
        some = min(500, count - start)
        tasks = tuple(SubmitTask(project=project, spec=SPEC) for _ in range(some))
        reply = await hub.ask(
            subjects.API, "submit_tasks", SubmitTasks(tasks=tasks), SubmittedTasks
        )
        assert all(result.submitted for result in reply.results)


async def test_a_flood_gets_its_share_and_no_more_and_limits_hold(hub: Hub) -> None:
    names = [f"p{n}" for n in range(PROJECTS)]
    for name in names:
        asked = CreateProject(name=name, running_limit=RUNNING_LIMIT)
        await hub.ask(subjects.API, "create_project", asked, Project)
    await asyncio.gather(
        submit(hub, "p0", 4000), *(submit(hub, name, 2 * TURNS) for name in names[1:])
    )
    done: Counter[str] = Counter()
    enough = PROJECTS * TURNS

    async def work(runner: Runner) -> None:
        while done.total() < enough:
            claimed = await runner.claim(5, wait_s=1)
            done.update(assignment.project for assignment in claimed)
            for assignment in claimed:
                await runner.complete(
                    Complete(
                        attempt_id=assignment.attempt_id,
                        outcome=AttemptState.FAILED,
                        retryable=False,
                    )
                )

    async def watch() -> int:
        most = 0
        while done.total() < enough:
            rows = await hub.pg.fetch(
                "SELECT project_id, count(*) FROM sched.unit WHERE state = 'leased' GROUP BY 1"
            )
            most = max([most, *(row["count"] for row in rows)])
        return most

    async with scheduler(hub.settings), scheduler(hub.settings):
        runners = [await hub.runner() for _ in range(8)]
        most, *_ = await asyncio.gather(watch(), *map(work, runners))
    assert most <= RUNNING_LIMIT
    assert set(done) == set(names)
    assert all(abs(count - TURNS) <= TURNS * 0.1 for count in done.values()), done


async def test_weights_are_shares(hub: Hub) -> None:
    weights = {"light": 1, "heavy": 3}
    for name, weight in weights.items():
        asked = CreateProject(name=name, weight=weight)
        await hub.ask(subjects.API, "create_project", asked, Project)
        await submit(hub, name, 60)
    runner = await hub.runner()
    got = Counter([a.project for _ in range(8) for a in await runner.claim(5)])
    assert abs(got["light"] - 10) <= 1
    assert got.total() == 40


async def test_a_project_that_was_idle_or_paused_saves_up_no_turns(hub: Hub) -> None:
    for name in ("busy", "idle"):
        await hub.ask(subjects.API, "create_project", CreateProject(name=name), Project)
        await submit(hub, name, 40)
    runner = await hub.runner()
    await hub.pg.execute("UPDATE sched.project SET paused = true WHERE name = 'idle'")
    assert {a.project for a in await runner.claim(20)} == {"busy"}
    await hub.pg.execute("UPDATE sched.project SET paused = false")
    resumed = Counter([a.project for a in await runner.claim(20)])
    assert abs(resumed["busy"] - resumed["idle"]) <= 2


async def test_what_a_heavy_project_cannot_use_goes_to_the_next_in_the_same_claim(hub: Hub) -> None:
    for name, weight in (("heavy", 5), ("light", 1)):
        asked = CreateProject(name=name, running_limit=9, weight=weight)
        await hub.ask(subjects.API, "create_project", asked, Project)
    await submit(hub, "light", 1)
    runner = await Runner(hub).register()
    (first,) = await runner.claim(1)
    assert first.project == "light"  # its next turn is far
    await submit(hub, "light", 1)
    await submit(hub, "heavy", 1)
    both = await runner.claim(2)  # both turns are heavy's, which has one unit
    assert sorted(assignment.project for assignment in both) == ["heavy", "light"]


async def test_pools_are_looked_up_once_a_count_however_much_runs(hub: Hub) -> None:
    await submit(hub, "default", 30)
    await hub.pg.execute("UPDATE sched.unit SET state = 'leased'")
    project_id = await hub.pg.fetchval("SELECT project_id FROM sched.project")
    lookups = text("SELECT idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'pool_project'")
    engine = db.make_engine(hub.settings.database_url, application="test", settings=db.ONE_PLAN)
    try:
        async with db.transaction(engine) as connection:
            turn = await fairness.lock_pool(connection, SPEC.pool)
            assert turn is not None
            before = (await connection.execute(lookups, {})).scalar_one()
            (share,) = await fairness.shares(connection, SPEC.pool, turn, [project_id])
            after = (await connection.execute(lookups, {})).scalar_one()
    finally:
        await engine.dispose()
    assert share.room == 70
    assert after - before <= 5
