"""The web page in a real browser: sign-in, the list of tasks, a task's page and what it can do.

Against the real API, with doubles at its neighbours' ports.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import browser as chromium
import pytest
from page_lab import PATCH, go, sign_in, with_result
from wfhub_common import ids

pytestmark = pytest.mark.timeout(180)


async def test_the_token_is_kept_for_the_tab_alone(hub: Any, stranger: chromium.Page) -> None:
    await stranger.type("#token", "wht_wrong")
    await stranger.press("Enter", "\r")
    await stranger.until_text("no valid token")
    assert await stranger.js("sessionStorage.length") == 0
    await stranger.js("document.querySelector('#token').value = ''")
    await sign_in(stranger, hub.token)
    await stranger.until_text("There is no task yet")
    places = "[localStorage.length, document.cookie, location.href, document.body.outerHTML]"
    kept, cookie, address, html = await stranger.js(places)
    assert (kept, cookie) == (0, "")
    assert hub.token not in address + html
    assert await stranger.js("Object.values(sessionStorage)") == [hub.token]
    await stranger.click("Sign out")
    await stranger.until("document.querySelector('#token') !== null")
    assert await stranger.js("sessionStorage.length") == 0


async def test_a_token_that_is_revoked_leads_back_to_the_sign_in(
    hub: Any, page: chromium.Page
) -> None:
    await page.js("sessionStorage.setItem('wfhub-token', 'wht_gone')")
    await go(page, "/fleet")
    await page.until("document.querySelector('#token') !== null")


async def test_the_list_changes_while_it_is_looked_at(hub: Any, page: chromium.Page) -> None:
    first = await hub.scheduler.task(title="first", state="running")
    await page.until(f"document.querySelector('a[href$={first}]') !== null")
    await page.js(f"document.querySelector('a[href$={first}]').focus()")
    await hub.scheduler.task(title="second", state="review")
    await hub.scheduler.update("api_task", first, state="failed", reason="verification-failed")
    await page.until_text("second")
    await page.until_text("A verification command did not pass.")
    assert await page.js("document.activeElement.textContent") == "first"
    await page.until_text("To review1", ".groups")
    await page.click("Failed", ".groups")
    await page.until("!document.querySelector('tbody')?.innerText.includes('second')")
    await page.until_text("first", "tbody")
    assert await page.js("location.hash") == "#/tasks?state=failed"


async def test_older_tasks_are_on_the_next_page(hub: Any, page: chromium.Page) -> None:
    for n in range(52):
        at = datetime.now(UTC) - timedelta(minutes=n)
        await hub.scheduler.task(title=f"number-{n}.", created_at=at)
    await page.until_text("number-49.")
    assert "number-50." not in await page.text("main")
    await page.click("Older")
    await page.until_text("number-51.")
    assert "number-49." not in await page.text("main")
    await page.click("Newest")
    await page.until_text("number-0.")


async def test_a_tasks_page_has_verdicts_changes_log_and_proof(
    hub: Any, page: chromium.Page, browser: chromium.Browser
) -> None:
    proof_id = ids.new_proof_id()
    hub.proof_store.exports[proof_id] = {"proof_id": proof_id}
    task_id, _ = await with_result(
        hub, state="succeeded", finished_at=datetime.now(UTC), proof_id=proof_id
    )
    await go(page, f"/tasks/{task_id}")
    await page.until_text("exit code 1", ".attempt")
    await page.until("document.querySelectorAll('.diff').length === 2")
    kinds = "(kind) => [...document.querySelectorAll(`.diff .${kind}`)].map((e) => e.textContent)"
    assert await page.js(f"({kinds})('removed')") == ["--- a/not/a/header"]
    assert "U+202E" in (await page.js(f"({kinds})('added')"))[0]
    assert await page.js(
        "[...document.querySelectorAll('.diff code')].map((e) => e.textContent)"
    ) == [
        "src/a.py",
        "b.txt",
    ]
    await page.until_text("<img src=x onerror", ".log")
    await page.until_text(f"wfhub proof verify {proof_id}.json")
    await page.until_text("7 in, 5 out")
    await page.click("Download (", "main")
    saved = await asyncio.wait_for(browser.downloaded.get(), chromium.WAIT_S)
    assert (saved.name, saved.read_bytes()) == (f"{task_id}.patch", PATCH)


async def test_a_tasks_page_follows_events_and_log(hub: Any, page: chromium.Page) -> None:
    task_id = await hub.scheduler.task(title="live", state="running")
    await go(page, f"/tasks/{task_id}")
    await page.until_text("an agent is at work")
    await hub.scheduler.event(task_id, "attempt.step", {"step": "setup-started"})
    await page.until_text("setup-started", ".timeline")
    await hub.scheduler.finish(task_id, "failed", reason="agent-failed", message="it gave up")
    await page.until_text("it gave up", ".bad")
    await page.until_text("task running → failed", ".timeline")
    await page.until_text("Submit one like it")
    assert await page.js("document.querySelectorAll('.timeline li').length") == 2


async def test_a_result_is_approved_by_keyboard_with_a_comment(
    hub: Any, page: chromium.Page
) -> None:
    task_id, _ = await with_result(
        hub, state="review", review_until=datetime.now(UTC) + timedelta(hours=2)
    )
    await go(page, f"/tasks/{task_id}")
    await page.until(
        "[...document.querySelectorAll('button')].some((b) => b.textContent === 'Approve')"
    )
    await page.js(
        "[...document.querySelectorAll('button')].find((b) => b.textContent === 'Approve').focus()"
    )
    await page.press("Enter", "\r")
    await page.until_text("cannot be undone", "dialog")
    await page.call("Input.insertText", text="looks right")
    for _ in range(2):
        await page.press("Tab")
    assert await page.js("document.activeElement.textContent") == "Approve and publish"
    await page.press("Enter", "\r")
    await page.until("document.querySelector('dialog') === null")
    (review,) = hub.scheduler.reviews
    assert (review.task_id, review.decision, review.comment) == (task_id, "approved", "looks right")


async def test_a_reviewer_sees_which_ci_files_are_changed(hub: Any, page: chromium.Page) -> None:
    names = [".github/workflows/ci.yml", ".gitlab-ci.yml"]
    said = f"CI files are changed: {names}"
    task_id, attempt_id = await with_result(
        hub, state="review", reason="ci-files-changed", message=said
    )
    await hub.scheduler.update("api_attempt", attempt_id, ci_files=names)
    await go(page, f"/tasks/{task_id}")
    await page.until_text("It changes what CI runs.", ".note")
    await page.until_text(said, ".note")
    for name in names:
        await page.until_text(name, ".attempt")
    await page.js(
        "[...document.querySelectorAll('button')].find((b) => b.textContent === 'Approve').click()"
    )
    await page.until_text(said, "dialog")


async def test_a_task_that_ended_is_run_again(hub: Any, page: chromium.Page) -> None:
    spec = {"repo": "/srv/app", "prompt": "Fix it", "limits": {"run_s": 77}}
    task_id = await hub.scheduler.task(state="failed", spec=spec, reason="agent-unknown")
    await go(page, f"/tasks/{task_id}")
    await page.click("Run again")
    await page.click("Run again", "dialog")
    await page.until(f"/tsk_/.test(location.hash) && !location.hash.endsWith('{task_id}')")
    (command,) = hub.scheduler.submitted
    assert (command.spec.prompt, command.spec.limits.run_s) == ("Fix it", 77)
    assert command.idempotency_key


async def test_a_task_that_waits_says_what_for(hub: Any, page: chromium.Page) -> None:
    await hub.http.patch("/v1/projects/default", json={"paused": True})
    task_id = await hub.scheduler.task(state="ready")
    await go(page, f"/tasks/{task_id}")
    await page.until_text("project default is paused", "main .note")


async def test_what_the_api_refuses_is_said_in_its_words(hub: Any, page: chromium.Page) -> None:
    task_id = await hub.scheduler.task(state="review")
    await go(page, f"/tasks/{task_id}")
    await page.click("Decline")
    await page.until("document.querySelector('dialog') !== null")
    await hub.scheduler.update(
        "api_task", task_id, state="succeeded", finished_at=datetime.now(UTC)
    )
    await page.click("Decline", "dialog")
    await page.until_text("there is nothing to decide any more", "dialog")
    await page.press("Escape")
    await page.until("document.querySelector('dialog') === null")
    assert hub.scheduler.reviews == []


async def test_a_running_task_is_told_handed_in_and_cancelled(
    hub: Any, page: chromium.Page
) -> None:
    task_id = await hub.scheduler.task(state="running")
    await go(page, f"/tasks/{task_id}")
    await page.click("Tell the agent")
    await page.type("dialog textarea", "be brief")
    await page.click("Send", "dialog")
    await page.until("document.querySelector('dialog') === null")
    await page.click("Hand in")
    await page.click("Hand in", "dialog")
    await page.until("document.querySelector('dialog') === null")
    await page.click("Cancel")
    await page.click("Back", "dialog")
    await page.until("document.querySelector('dialog') === null")
    assert hub.scheduler.cancels == []
    await page.click("Cancel")
    await page.click("Cancel the task", "dialog")
    await page.until("document.querySelector('dialog') === null")
    assert hub.scheduler.cancels == [task_id]
    sent = [url for url in page.requests if task_id in url]
    assert {url.rpartition("/")[2] for url in sent} >= {"messages", "hand-in", "cancel"}
