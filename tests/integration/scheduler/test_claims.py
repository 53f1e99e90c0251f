"""Claims: each unit to one runner, each claim one answer, limits and turns kept."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from scheduler_hub import SPEC, Hub, Runner, scheduler, until
from wfhub_common import db, ids, limits, subjects
from wfhub_common.errors import Rejected
from wfhub_common.httpauth import ATTEMPT_TOKEN_PREFIX, new_token, token_sha256
from wfhub_common.messages import (
    AttemptState,
    Budget,
    CassetteUse,
    Claim,
    Complete,
    CreateProject,
    Drained,
    DrainRunner,
    Introspect,
    IntrospectMany,
    McpServer,
    Project,
    ProjectBudget,
    Register,
    SpendingLimit,
    SubmitTask,
    SubmitTasks,
    SubmittedTasks,
    TokenInfo,
    TokenInfos,
    UnitKind,
    UpdateProject,
)
from wfhub_scheduler import claim as scheduler_claim
from wfhub_scheduler.core import Core
from wfhub_scheduler.introspect import introspect_many
from wfhub_scheduler.runners import register
from wfhub_scheduler.submission import submit_task
from wfhub_scheduler.timing import Timing


@contextlib.asynccontextmanager
async def core_of(hub: Hub) -> AsyncIterator[Core]:
    engine = db.make_engine(hub.settings.database_url, application="test")
    yield Core(engine, hub.broker, Timing(30, 10, 2))
    await engine.dispose()


async def info(hub: Hub, token: str) -> TokenInfo:
    asked = Introspect(token_sha256=token_sha256(token))
    return await hub.ask(subjects.GATEWAY, "introspect", asked, TokenInfo)


async def fail(runner: Runner, attempt_id: str) -> None:
    await runner.complete(
        Complete(attempt_id=attempt_id, outcome=AttemptState.FAILED, retryable=False)
    )


async def test_a_repeated_claim_gets_the_same_attempts_with_usable_tokens(hub: Hub) -> None:
    runner = await hub.runner()
    for _ in range(3):
        await hub.submit()
    claim_id = ids.new_claim_id()
    first = await runner.claim(2, claim_id=claim_id)
    again = await runner.claim(2, claim_id=claim_id)
    assert [a.attempt_id for a in again] == [a.attempt_id for a in first]
    assert len(first) == 2
    assert [(await info(hub, a.token)).attempt_id for a in again] == [a.attempt_id for a in first]
    assert not (await info(hub, first[0].token)).active  # replaced: nobody else has it
    assert len(await runner.claim(2)) == 1


async def test_a_claim_that_waits_at_another_scheduler_takes_no_token_from_who_works(
    idle_hub: Hub,
) -> None:
    """The runner lost its connection while it waited, and asked again; then there was work."""
    async with contextlib.AsyncExitStack() as stack:
        asked, left = [await stack.enter_async_context(core_of(idle_hub)) for _ in range(2)]
        runner = Runner(idle_hub)
        process = Register(incarnation=runner.incarnation, name="test", slots=4)
        assert (await register(asked, runner.runner_id, process)).takes_token_keys
        claim = Claim(
            claim_id=ids.new_claim_id(),
            incarnation=runner.incarnation,
            slots=1,
            wait_s=20,
            token_key=new_token(ATTEMPT_TOKEN_PREFIX),
        )
        waits = asyncio.create_task(scheduler_claim.claim(left, runner.runner_id, claim))

        async def looked() -> bool:
            desk = left.groups.get("claim default")
            return desk is not None and any(each.looked for each in desk.waiting)

        await until(looked)
        for _ in range(2):  # the other one has it look
            await submit_task(asked, SubmitTask(project="default", spec=SPEC))
        (given,) = (await scheduler_claim.claim(asked, runner.runner_id, claim)).assignments
        (late,) = (await waits).assignments  # by its poll; nobody hears it
        assert late.attempt_id == given.attempt_id
        token = IntrospectMany(token_sha256s=(token_sha256(given.token),))
        assert [each.active for each in (await introspect_many(asked, token)).tokens] == [True]


async def test_units_that_do_not_fit_into_one_answer_are_given_one_after_the_other(
    hub: Hub,
) -> None:
    runner = await hub.runner()
    tasks = [(await hub.submit(prompt="x" * 250_000)).task_id for _ in range(5)]
    given = [await runner.claim(5) for _ in range(2)]
    assert [[each.task_id for each in answer] for answer in given] == [tasks[:3], tasks[3:]]


async def test_the_same_claim_sent_at_once_many_times_is_one_claim(hub: Hub) -> None:
    runner = await hub.runner()
    for _ in range(6):
        await hub.submit()
    claim_id = ids.new_claim_id()
    answers = await asyncio.gather(*(runner.claim(2, claim_id=claim_id) for _ in range(6)))
    assert len({tuple(a.attempt_id for a in answer) for answer in answers}) == 1
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.attempt") == 2


async def test_a_repeated_claim_after_the_end_gets_nothing_new(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit()
    await hub.submit()
    claim_id = ids.new_claim_id()
    (only,) = await runner.claim(1, claim_id=claim_id)
    await fail(runner, only.attempt_id)
    assert await runner.claim(1, claim_id=claim_id) == ()


async def test_two_schedulers_and_many_claimers_never_lease_a_unit_twice(hub: Hub) -> None:
    async with scheduler(hub.settings):
        await asyncio.gather(*(hub.submit() for _ in range(40)))
        runners = [await hub.runner() for _ in range(8)]

        async def work(runner: Runner) -> list[str]:
            got: list[str] = []
            while claimed := await runner.claim(3, wait_s=0):
                got += [a.task_id for a in claimed]
            return got

        taken = [task for got in await asyncio.gather(*map(work, runners)) for task in got]
    assert len(taken) == 40
    assert len(set(taken)) == 40
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.unit WHERE state = 'leased'") == 40


async def test_a_waiting_claim_is_woken_by_a_submission(hub: Hub) -> None:
    runner = await hub.runner()
    waiting = asyncio.create_task(runner.claim(wait_s=20))
    await until(lambda: hub.pg.fetchval("SELECT count(*) FROM sched.runner"))
    begun = time.monotonic()
    submitted = await hub.submit()
    (assignment,) = await waiting
    assert assignment.task_id == submitted.task_id
    assert time.monotonic() - begun < 5


async def test_a_claim_that_finds_nothing_answers_when_its_wait_is_over(hub: Hub) -> None:
    assert await (await hub.runner()).claim(wait_s=0.1) == ()


async def test_priority_goes_before_age_and_other_pools_are_not_looked_at(hub: Hub) -> None:
    runner = await hub.runner()
    old = await hub.submit()
    urgent = await hub.submit(priority=5)
    await hub.submit(pool="gpu", priority=9)
    first, second = await runner.claim(3)
    assert [first.task_id, second.task_id] == [urgent.task_id, old.task_id]
    assert len(await runner.claim(3, pool="gpu")) == 1


async def test_a_flood_does_not_delay_another_projects_turn(hub: Hub) -> None:
    for name in ("flood", "calm"):
        await hub.ask(subjects.API, "create_project", CreateProject(name=name), Project)
    for _ in range(30):
        await hub.submit("flood")
    runner = await hub.runner()
    await runner.claim(8)
    calm = {(await hub.submit("calm")).task_id for _ in range(6)}
    next_ones = [a.task_id for _ in range(12) for a in await runner.claim(1)]
    assert calm <= set(next_ones)  # six of twelve: every other turn


async def test_ready_units_are_dealt_to_the_waiting_runners_in_turn(hub: Hub) -> None:
    runners = [await hub.runner() for _ in range(4)]
    waiting = [asyncio.create_task(runner.claim(4, wait_s=20)) for runner in runners]
    batch = SubmitTasks(tasks=tuple(SubmitTask(project="default", spec=SPEC) for _ in range(4)))
    await until(lambda: waits(hub, len(waiting)))
    await hub.ask(subjects.API, "submit_tasks", batch, SubmittedTasks)
    assert [len(await one) for one in waiting] == [1, 1, 1, 1]


async def test_a_unit_goes_only_to_a_runner_with_all_its_labels(hub: Hub) -> None:
    plain, gpu, both = [
        await hub.runner(*labels) for labels in ((), ("gpu",), ("gpu", "docker", "big"))
    ]
    wanted = await hub.submit(labels=("docker", "gpu"))
    assert await plain.claim(wait_s=0) == await gpu.claim(wait_s=0) == ()
    assert [a.task_id for a in await both.claim(wait_s=0)] == [wanted.task_id]
    anybodys = await hub.submit()
    assert [a.task_id for a in await both.claim(wait_s=0)] == [anybodys.task_id]


async def test_a_publication_asks_for_the_labels_of_its_task(hub: Hub) -> None:
    gpu, plain = await hub.runner("gpu"), await hub.runner()
    task = await hub.submit(labels=("gpu",))
    won = await gpu.claim_one()
    await gpu.complete(gpu.won(won.attempt_id))
    await hub.in_state(task.task_id, "publishing")
    assert await plain.claim(wait_s=0) == ()
    assert (await gpu.claim_one(UnitKind.PUBLISH)).task_id == task.task_id


async def test_a_task_is_not_given_before_its_run_at_and_then_at_once(hub: Hub) -> None:
    runner = await hub.runner()
    run_at = datetime.now(UTC) + timedelta(seconds=5)  # the next three lines take less
    later = await hub.submit(run_at=run_at, priority=50)
    now = await hub.submit()
    assert [a.task_id for a in await runner.claim(4, wait_s=0)] == [now.task_id]
    (assignment,) = await runner.claim(4, wait_s=10)
    assert assignment.task_id == later.task_id
    assert run_at <= datetime.now(UTC) < run_at + timedelta(seconds=3)


async def test_what_ends_a_task_goes_before_what_begins_one(hub: Hub) -> None:
    runner = await hub.runner()
    first = await hub.submit()
    won = await runner.claim_one()
    await hub.submit(priority=100)
    await runner.complete(runner.won(won.attempt_id))
    await hub.in_state(first.task_id, "publishing")
    kinds = [a.kind for a in await runner.claim(2)]
    assert kinds == [UnitKind.PUBLISH, UnitKind.AGENT]
    await hub.submit()
    assert await runner.claim(1, kinds=(UnitKind.PUBLISH,), wait_s=0) == ()


async def test_a_claim_that_fails_harms_no_other(hub: Hub) -> None:
    """The claim id of an attempt elsewhere, asked in another pool at the same time."""
    runner, other = await hub.runner(), await hub.runner()
    for pool in ("default", "other"):
        for _ in range(3):
            await hub.submit(pool=pool)
    claim_id = ids.new_claim_id()
    answers = await asyncio.gather(
        runner.claim(1, claim_id=claim_id),
        runner.claim(1, claim_id=claim_id, pool="other"),
        other.claim(1),
        other.claim(1, pool="other"),
        return_exceptions=True,
    )
    assert all(isinstance(answer, tuple) and len(answer) == 1 for answer in answers[2:])
    live = "SELECT count(*) FROM sched.attempt WHERE claim_id = $1"
    assert await hub.pg.fetchval(live, claim_id) == 1


async def test_a_task_that_this_version_cannot_read_keeps_nobody_from_what_waits_behind_it(
    hub: Hub,
) -> None:
    runner = await hub.runner()
    unreadable = [(await hub.submit()).task_id for _ in range(3)]
    behind = (await hub.submit()).task_id
    newer = "UPDATE sched.task SET spec = spec || '{\"of_tomorrow\": 1}' WHERE task_id = ANY($1)"
    await hub.pg.execute(newer, unreadable)
    (given,) = await runner.claim(4)
    assert given.task_id == behind
    later = "SELECT count(*) FROM sched.unit WHERE task_id = ANY($1) AND run_at > now()"
    assert await hub.pg.fetchval(later, unreadable) == 3

    older = "UPDATE sched.task SET spec = spec - 'of_tomorrow' WHERE task_id = ANY($1)"
    await hub.pg.execute(older, unreadable)
    await hub.pg.execute("UPDATE sched.unit SET run_at = now() WHERE run_at > now()")
    assert {a.task_id for a in await runner.claim(4)} == set(unreadable)


async def test_a_runner_that_is_drained_ends_its_work_and_gets_no_more(hub: Hub) -> None:
    runner = await hub.runner()
    task = await hub.submit()
    held = await runner.claim_one()
    drained = await drain(hub, runner)
    assert (drained.draining, drained.running) == (True, 1)
    assert (await drain(hub, runner)) == drained
    await hub.submit()
    assert await runner.claim(wait_s=0.2) == ()
    await runner.complete(runner.won(held.attempt_id))
    await hub.in_state(task.task_id, "publishing")
    restarted = await runner.again().register()
    assert await restarted.claim(wait_s=0.2) == ()  # it is the runner that is drained
    waiting = asyncio.create_task(restarted.claim(2, wait_s=20))
    await until(lambda: waits(hub, 1))
    assert not (await drain(hub, runner, drain=False)).draining
    assert len(await waiting) == 2
    with pytest.raises(Rejected, match="runner-unknown"):
        await drain(hub, Runner(hub))


async def drain(hub: Hub, runner: Runner, *, drain: bool = True) -> Drained:
    asked = DrainRunner(runner_id=runner.runner_id, drain=drain)
    return await hub.ask(subjects.API, "drain_runner", asked, Drained)


async def waits(hub: Hub, count: int) -> bool:
    """Whether so many runners' claims were looked at: each touched its row of the table."""
    sql = "SELECT count(*) FROM sched.runner WHERE xmax <> 0"
    return bool(await hub.pg.fetchval(sql) >= count)


async def test_only_the_registered_process_may_claim(hub: Hub) -> None:
    with pytest.raises(Rejected, match="runner-unknown"):
        await Runner(hub).claim()
    earlier = await hub.runner()
    await earlier.again().register()
    with pytest.raises(Rejected, match="incarnation-stale"):
        await earlier.claim()


async def test_a_token_dies_with_its_attempt(hub: Hub) -> None:
    ended = await hub.broker.connection.subscribe(subjects.CTL_ATTEMPT_ENDED)
    runner = await hub.runner()
    submitted = await hub.submit(budget_tokens=1000)
    assignment = await runner.claim_one()
    token = await info(hub, assignment.token)
    assert (token.active, token.task_id) == (True, submitted.task_id)
    assert (token.budget_tokens, token.models) == (1000, None)
    assert token.valid_until == assignment.lease_until
    assert 0 < token.valid_for_s <= limits.LEASE_TTL_S
    await fail(runner, assignment.attempt_id)
    assert not (await info(hub, assignment.token)).active
    assert assignment.attempt_id.encode() in (await ended.next_msg(timeout=5)).data


async def test_the_gateway_is_told_about_many_tokens_at_once_in_its_order(hub: Hub) -> None:
    runner = await hub.runner()
    for _ in range(3):
        await hub.submit()
    live, ended, other = await runner.claim(3)
    await fail(runner, ended.attempt_id)
    tokens = (other.token, "wat_unknown", ended.token, live.token)
    asked = IntrospectMany(token_sha256s=tuple(map(token_sha256, tokens)))
    told = await hub.ask(subjects.GATEWAY, "introspect_many", asked, TokenInfos)
    alone = [await info(hub, token) for token in tokens]  # later: less of each lease is left
    assert [each.model_copy(update={"valid_for_s": None}) for each in told.tokens] == [
        each.model_copy(update={"valid_for_s": None}) for each in alone
    ]
    assert [each.attempt_id for each in told.tokens if each.active] == [
        other.attempt_id,
        live.attempt_id,
    ]


async def test_the_gateway_is_told_what_the_token_of_an_attempt_may_spend(hub: Hub) -> None:
    project_budget = ProjectBudget(usd_per_day=Decimal("20"), requests_per_minute=6)
    runner = await hub.runner()
    await hub.ask(
        subjects.API, "create_project", CreateProject(name="app", budget=project_budget), Project
    )
    budget = Budget(usd=Decimal("2.50"), wall_s=60)
    await hub.submit("app", budget=budget, attempt_budget=Budget(requests=5), budget_tokens=1000)
    assignment = await runner.claim_one()
    token = await info(hub, assignment.token)
    assert token.project == "app"
    assert token.limits == (
        SpendingLimit(scope="day", nusd=20_000_000_000),
        SpendingLimit(scope="minute", requests=6),
        SpendingLimit(scope="task", nusd=2_500_000_000, wall_ms=60_000),
        SpendingLimit(scope="attempt", tokens=1000, requests=5),
    )
    change = UpdateProject(project="app", budget=ProjectBudget(tokens=7))
    changed = await hub.ask(subjects.API, "update_project", change, Project)
    assert changed.budget == ProjectBudget(tokens=7)
    limits = (await info(hub, assignment.token)).limits
    assert limits[0] == SpendingLimit(scope="project", tokens=7)
    unchanged = UpdateProject(project="app", weight=2)
    assert (await hub.ask(subjects.API, "update_project", unchanged, Project)).budget.tokens == 7


async def test_the_gateway_is_told_the_cassette_of_the_task_or_else_of_its_project(
    hub: Hub,
) -> None:
    runner = await hub.runner()
    tape = CassetteUse(mode="replay", name="nightly")
    await hub.ask(subjects.API, "create_project", CreateProject(name="app", cassette=tape), Project)
    await hub.submit("app")
    await hub.submit("app", cassette=CassetteUse(mode="record", name="own"))
    assignments = await runner.claim(2)
    told = [await info(hub, each.token) for each in assignments]
    assert sorted((i.cassette_mode, i.cassette) for i in told) == [
        ("record", "own"),
        ("replay", "nightly"),
    ]
    for given, found in (("none", None), (None, None), (tape, tape)):
        change = UpdateProject(project="app", cassette=given)
        assert (await hub.ask(subjects.API, "update_project", change, Project)).cassette == found


async def test_an_agents_runner_is_told_the_mcp_servers_of_its_project_as_they_are_now(
    hub: Hub,
) -> None:
    runner = await hub.runner()
    servers = {"notes": McpServer(argv=("notes", "--x"), env={"KEY": "v"})}
    made = CreateProject(name="app", mcp=servers)
    assert (await hub.ask(subjects.API, "create_project", made, Project)).mcp == servers
    assert not (await hub.ask(subjects.API, "create_project", made, Project)).created
    await hub.submit("app")
    assert (await runner.claim_one()).mcp == servers
    unchanged = UpdateProject(project="app", weight=2)
    assert (await hub.ask(subjects.API, "update_project", unchanged, Project)).mcp == servers
    gone = UpdateProject(project="app", mcp={})
    assert (await hub.ask(subjects.API, "update_project", gone, Project)).mcp == {}
    await hub.submit("app")
    assert (await runner.claim_one()).mcp == {}


async def test_an_agents_runner_is_told_whether_debuggers_are_allowed_as_it_is_now(
    hub: Hub,
) -> None:
    runner = await hub.runner()
    made = CreateProject(name="app")
    assert (await hub.ask(subjects.API, "create_project", made, Project)).debuggers == "refuse"
    for given, found in (("allow", True), (None, True), ("refuse", False)):
        change = UpdateProject.model_validate({"project": "app", "debuggers": given})
        await hub.ask(subjects.API, "update_project", change, Project)
        await hub.submit("app")
        claim_id = ids.new_claim_id()
        (assigned,) = await runner.claim(claim_id=claim_id)
        assert assigned.debuggers is found
        (again,) = await runner.claim(claim_id=claim_id)
        assert again.debuggers is found


async def test_what_was_committed_is_done_once_though_nobody_could_be_told(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with core_of(hub) as core:

        def fails(_noted: object) -> None:
            raise RuntimeError("the metrics have a bug")

        monkeypatch.setattr(core.metrics, "after", fails)
        asked = SubmitTask(project="default", spec=SPEC)
        tasks = await asyncio.gather(*(submit_task(core, asked) for _ in range(5)))
    assert len({task.task_id for task in tasks}) == 5
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.task") == 5


async def test_no_row_holds_a_token_only_its_digest_does(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit()
    assignment = await runner.claim_one()
    assert (await info(hub, assignment.token)).active
    rows = await hub.pg.fetch("SELECT CAST(attempt AS text) AS row FROM sched.attempt")
    assert token_sha256(assignment.token) in rows[0]["row"]
    tables = await hub.pg.fetch(
        "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables"
        " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
    )
    for table in tables:
        found = await hub.pg.fetchval(
            f"SELECT count(*) FROM {table['name']} t WHERE CAST(t AS text) LIKE '%' || $1 || '%'",
            assignment.token,
        )
        assert found == 0, table["name"]
