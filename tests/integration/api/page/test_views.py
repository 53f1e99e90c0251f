"""The web page in a real browser: hostile texts, submitting, the other views, phones, no answer."""

import json
from typing import Any

import asyncpg
import browser as chromium
import httpx
import page_lab
import pytest
import real_api
from page_lab import FAINT, HOSTILE, go, with_result
from wfhub_common import ids
from wfhub_scheduler.dead_letters import RPC_FAILURES_MAX

pytestmark = pytest.mark.timeout(180)

POISON = """
CREATE FUNCTION sched.poison() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '<b>poison</b>'; END $$;
CREATE TRIGGER poison BEFORE INSERT ON sched.task
    FOR EACH ROW WHEN (NEW.title = 'poison') EXECUTE FUNCTION sched.poison()
"""


@pytest.mark.hostile(16)
async def test_hostile_texts_stay_texts_wherever_they_are_shown(
    hub: Any, page: chromium.Page
) -> None:
    text = " ".join(HOSTILE)
    spec = {"repo": text, "prompt": text, "verify": [text], "agent": {"name": "x", "model": text}}
    task_id, attempt_id = await with_result(
        hub, state="running", title=text, message=text, reason="x", branch=text, spec=spec
    )
    await hub.scheduler.update(
        "api_attempt", attempt_id, message=text, changes=[{"path": text, "change": "added"}]
    )
    await hub.scheduler.event(task_id, "attempt.step", {"step": text, text: text})
    flow_id, node = ids.new_workflow_id(), ids.new_task_id()
    await hub.scheduler.pool.execute(
        "INSERT INTO sched.api_workflow (workflow_id, project_id, project, name, state,"
        " submitted_by, created_at, updated_at)"
        " VALUES ($1, 'p', $2, $2, 'running', $2, now(), now())",
        *(flow_id, text),
    )
    await hub.scheduler.pool.execute(
        "INSERT INTO sched.api_workflow_node VALUES ($1, 0, $3, $2, '{}', 'all_succeeded', 'fail',"
        " 'ready', 'x', $3)",
        *(flow_id, node, text),
    )
    await hub.scheduler.pool.execute(
        "INSERT INTO sched.api_runner VALUES ('rnr_x', $1, 1, $2, $1, $1, false, now(), now())",
        *(text, json.dumps([text])),
    )
    schedule_id = ids.new_schedule_id()
    await hub.scheduler.pool.execute(
        "INSERT INTO sched.api_schedule VALUES ($1, 'p', $2, $2, 1, $3, false, now(), now(), $2,"
        " now(), now(), NULL)",
        *(schedule_id, text, json.dumps({"cron": text, "time_zone": text, "task": spec})),
    )
    await hub.scheduler.pool.execute(
        "INSERT INTO sched.api_firing VALUES ($1, now(), now(), 'missed', $2, $2, NULL, NULL, $2,"
        " now())",
        *(schedule_id, text),
    )
    waits = {
        "/tasks": "td.what",
        f"/tasks/{task_id}": ".timeline li",
        f"/workflows/{flow_id}": ".node",
        "/fleet": "tbody",
        "/schedules": "tbody",
        f"/schedules/{schedule_id}": "tbody",
    }
    for address, selector in waits.items():
        await go(page, address)
        await page.until(f"document.querySelector({selector!r}) !== null")
        await page.until_text("<img src=x onerror", "main")
        assert await page.js("document.querySelectorAll('main img, main script').length") == 0
        assert await page.js("document.title") != "owned"
        shown = await page.js("document.querySelector('main').textContent")
        assert "\u202e" not in shown
        assert "\x1b" not in shown
        assert "U+202E" in shown
    assert not await page.js(
        "[...document.querySelectorAll('a')].some((a) => a.protocol === 'javascript:')"
    )


async def test_a_task_is_submitted_once_whatever_is_clicked(hub: Any, page: chromium.Page) -> None:
    await page.click("New task")
    await page.type("input[placeholder^=https]", "/srv/app")
    await page.type("form textarea", "Fix it")
    await page.type("textarea[placeholder^=pytest]", "pytest -q\nmypy .")
    await page.click("Submit")
    await page.until("location.hash.startsWith('#/tasks/tsk_')")
    (command,) = hub.scheduler.submitted
    assert (command.spec.repo, command.spec.prompt) == ("/srv/app", "Fix it")
    assert command.spec.verify == ("pytest -q", "mypy .")
    assert (command.spec.review_s, command.submitted_by) == (None, "admin")
    assert command.idempotency_key
    await page.until_text("waits for a runner")


async def test_what_is_wrong_with_a_new_task_is_named(hub: Any, page: chromium.Page) -> None:
    task_id = await hub.scheduler.task(spec={"repo": "/r", "prompt": "p"}, state="failed")
    await go(page, f"/new?like={task_id}")
    await page.until("document.querySelector('input[placeholder^=https]').value === '/r'")
    await page.type("input[list=agents]", "Not A Name")
    await page.click("Submit")
    await page.until_text("body.agent.name", "[role=alert]")
    assert hub.scheduler.submitted == []


async def test_projects_pools_runners_and_workflows_are_shown(
    hub: Any, page: chromium.Page
) -> None:
    await hub.http.patch("/v1/projects/default", json={"paused": True})
    await hub.http.patch("/v1/pools/big", json={"running_limit": 4})
    await hub.scheduler.pool.execute(
        "INSERT INTO sched.api_runner VALUES"
        " ('rnr_a', 'one', 4, '[\"gpu\"]', 'bwrap', '1', true, now(), now(), 2, 'large'),"
        " ('rnr_b', 'two', 4, '[]', 'bwrap', '1', false, now(), now() - interval '1 hour', 0, NULL)"
    )
    await go(page, "/fleet")
    for text in ("paused", "big", "draining", "lost", "gpu", "large"):
        await page.until_text(text, "main")
    flow = (
        await hub.http.post("/v1/workflows", json={"name": "w", "tasks": {"a": {"repo": "/r"}}})
    ).json()
    await hub.scheduler.pool.execute(
        "INSERT INTO sched.api_workflow_node VALUES"
        " ($1, 1, 'b', $2, '{0}', 'all_succeeded', 'fail', 'blocked', '', '')",
        *(flow["workflow_id"], ids.new_task_id()),
    )
    await page.click("Workflows", "header")
    await page.click("w", "tbody")
    await page.until("document.querySelectorAll('.node').length === 2")
    assert await page.js("document.querySelectorAll('.edge').length") == 1
    await hub.scheduler.pool.execute(
        "UPDATE sched.api_workflow_node SET state = 'running' WHERE name = 'a'"
    )
    await page.until("document.querySelector('.node.running') !== null")


async def test_a_schedule_is_shown_paused_resumed_and_fired(hub: Any, page: chromium.Page) -> None:
    body = {"cron": "30 2 * * *", "time_zone": "Europe/Berlin", "task": {"repo": "/r"}}
    put = (await hub.http.put("/v1/schedules/nightly", json=body)).json()
    await hub.scheduler.pool.execute(
        "UPDATE sched.api_schedule SET next_fire_at = now() + interval '140 minutes'"
    )
    task_id = await hub.scheduler.task(state="failed")
    await hub.scheduler.pool.execute(
        "INSERT INTO sched.api_firing VALUES ($1, now(), now(), 'fired', '', '', $2, 'failed', '',"
        " now()), ($1, now() - interval '1 day', now(), 'missed', 'outage', 'gone by', NULL, NULL,"
        " '', now())",
        *(put["schedule_id"], task_id),
    )
    await page.click("Schedules", "header")
    await page.until_text("in 2 h", "tbody")
    assert "Europe/Berlin" in await page.text("tbody")
    await page.click("nightly", "tbody")
    await page.until_text("gone by", "main")
    assert await page.js(f"document.querySelector('a[href=\"#/tasks/{task_id}\"]') !== null")
    await page.click("Pause")
    await page.click("Pause", "dialog")
    await page.until("document.querySelector('.title .pill').innerText === 'paused'")
    await page.click("Resume")
    await page.click("Resume", "dialog")
    await page.until("document.querySelector('.title .pill').innerText === 'active'")
    await page.click("Fire now")
    await page.click("Fire", "dialog")
    await page.until_text("by admin", "tbody")
    fired = (await hub.http.get("/v1/schedules/nightly")).json()["firings"]
    assert [one["outcome"] for one in fired].count("waiting") == 1


async def test_without_an_answer_the_page_says_so_and_goes_on_by_itself(
    hub: Any, page: chromium.Page
) -> None:
    await hub.scheduler.task(title="before")
    await page.until_text("before", "tbody")
    await page.offline(True)
    await page.until_text("does not answer", "[role=alert]")
    assert "before" in await page.text("tbody")
    await hub.scheduler.task(title="meanwhile")
    await page.offline(False)
    await page.until_text("meanwhile", "tbody")
    await page.until("document.querySelector('[role=alert]') === null")


async def test_what_happens_while_an_answer_is_under_way_is_looked_at_again(
    page: chromium.Page,
) -> None:
    looks = await page.js("""(async () => {
      const { again, repeat } = await import("/page/live.js");
      const done = new AbortController();
      let looks = 0;
      const looked = new Promise((over) => repeat(done.signal, 3_600_000, async () => {
        looks += 1;
        if (looks === 1) again();
        else over();
      }, over));
      await Promise.race([looked, new Promise((late) => setTimeout(late, 10_000))]);
      done.abort();
      return looks;
    })()""")
    assert looks == 2


async def test_what_is_not_there_is_said_in_the_apis_words(hub: Any, page: chromium.Page) -> None:
    task_id = ids.new_task_id()
    await go(page, f"/tasks/{task_id}")
    await page.until_text(f"there is no task {task_id}", "[role=alert]")
    await go(page, "/nowhere/else")
    await page.until_text("There is no such page")


async def test_a_phones_width_is_enough(hub: Any, page: chromium.Page) -> None:
    await page.look(size=chromium.PHONE, dark=True)
    long = "a-name-that-nobody-broke-" * 12
    task_id, _ = await with_result(hub, state="review", title=long, branch=long, message=long)
    body = {"cron": "30 2 * * *", "task": {"repo": "/" + long}}
    schedule = (await hub.http.put("/v1/schedules/nightly", json=body)).json()
    for address, selector in {
        "/tasks": "tbody tr",
        f"/tasks/{task_id}": ".diff",
        "/fleet": "tbody",
        "/workflows": ".note",
        "/schedules": "tbody",
        f"/schedules/{schedule['schedule_id']}": ".note",
        "/new": "form",
        "/dead-letters": ".groups",
    }.items():
        await go(page, address)
        await page.until(f"document.querySelector('main {selector}') !== null")
        wide = await page.js("document.documentElement.scrollWidth")
        assert wide <= chromium.PHONE[0], address
    assert await page.js("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_everything_can_be_read(hub: Any, page: chromium.Page, dark: bool) -> None:
    await page.look(dark=dark)
    task_id, _ = await with_result(hub, state="review", title="one")
    await with_result(hub, state="failed", title="two", reason="agent-failed", message="why")
    for address, selector in {
        "/tasks": "tbody tr",
        f"/tasks/{task_id}": ".diff",
        "/fleet": "tbody",
        "/new": "form",
    }.items():
        await go(page, address)
        await page.until(f"document.querySelector('main {selector}') !== null")
        assert await page.js(FAINT) == [], address


async def test_on_a_phone_every_view_can_be_seen_to_be_there(hub: Any, page: chromium.Page) -> None:
    await page.look(size=chromium.PHONE)
    ends = "[...document.querySelectorAll('#nav a')].map((a) => a.getBoundingClientRect().right)"
    assert max(await page.js(ends)) <= chromium.PHONE[0]


async def test_dead_letters_of_a_real_scheduler_are_replayed_and_discarded(
    api: httpx.AsyncClient, database_url: str, browser: chromium.Browser
) -> None:
    pg = await asyncpg.connect(database_url)
    await pg.execute(POISON)
    task = {"repo": "/r", "prompt": "p", "title": "poison"}
    for key in ("a", "b"):
        for _ in range(RPC_FAILURES_MAX):
            await api.post("/v1/tasks", json=task, headers={"Idempotency-Key": key})
    await pg.execute("DROP FUNCTION sched.poison CASCADE")
    await pg.close()
    page = await browser.page()
    await page.open(str(api.base_url))
    await page_lab.sign_in(page, real_api.TOKEN)
    await page.until_text("2", ".badge")
    await page.click("Dead letters", "header")
    await page.until("document.querySelectorAll('main .card').length === 2")
    await page.click("Body")
    await page.until_text('"title":"poison"', "main")
    await page.click("Replay")
    await page.click("Replay", "dialog")
    await page.until("document.querySelectorAll('main .card').length === 1")
    await page.click("Discard")
    await page.click("Discard", "dialog")
    await page.until_text("Nothing is stuck")
    letters = (await api.get("/v1/dead-letters")).json()["dead_letters"]
    assert {letter["state"] for letter in letters} == {"replayed", "discarded"}
    assert page.problems == []
    await browser.close(page)
