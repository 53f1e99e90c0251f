"""Test support: what tests of the web page do to it, and a task that left something."""

import json
from typing import Any

import browser as chromium
from wfhub_common import ids

PATCH = (
    b"diff --git a/src/a.py b/src/a.py\nindex 1..2 100644\n--- a/src/a.py\n+++ b/src/a.py\n"
    b"@@ -1,3 +1,3 @@\n def f():\n--- a/not/a/header\n+    return '\xe2\x80\xae evil'\n"
    b" # end\ndiff --git a/b.txt b/b.txt\nnew file mode 100644\n--- /dev/null\n+++ b/b.txt\n"
    b"@@ -0,0 +1 @@\n+<img src=x onerror=alert(1)>\n"
)
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\">",
    "</script><script>document.title='owned'</script>",
    "\x1b]0;owned\x07\x1b[31mred",
    "safe\u202egnp.exe",
    "zero\u200bwidth",
    "javascript:alert(1)",
    "{{7*7}}${7*7}",
)


async def sign_in(page: chromium.Page, token: str) -> None:
    await page.type("#token", token)
    await page.press("Enter", "\r")
    await page.until("!document.querySelector('#top').hidden")


async def go(page: chromium.Page, address: str) -> None:
    await page.js(f"location.hash = {json.dumps(address)}")


async def with_result(hub: Any, **task: Any) -> tuple[str, str]:
    """A task with an attempt that was verified and has a patch and a log."""
    attempt_id = ids.new_attempt_id()
    task_id = await hub.scheduler.task(**task)
    keep = hub.proof_store.receipt
    verdict = {
        "status": "failed",
        "commands": [
            {
                "command": "pytest -q",
                "exit_code": 0,
                "outcome": "exited",
                "duration_ms": 1500,
                "log": "v",
            },
            {"command": "mypy", "exit_code": 1, "outcome": "exited", "duration_ms": 10, "log": "v"},
        ],
    }
    await hub.scheduler.attempt(
        task_id,
        attempt_id=attempt_id,
        state="won",
        verdict=verdict,
        runner_id="rnr_one",
        artifacts=[
            keep(attempt_id, "result.patch", PATCH),
            keep(attempt_id, "agent.log", "".join(f"{t}\n" for t in HOSTILE).encode()),
        ],
    )
    return task_id, attempt_id
