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
# Texts that WCAG AA would call too faint (4.5:1), and edges of fields (3:1), by computed style.
FAINT = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, below) =>
    below.map((part, i) => i < 3 ? top[i] * top[3] + part * (1 - top[3]) : 1);
  const light = (rgb) => [.2126, .7152, .0722].reduce((sum, share, i) => { const v = rgb[i] / 255;
    return sum + share * (v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); }, 0);
  const ground = (e) => e === null ? [255, 255, 255, 1]
    : over(channels(getComputedStyle(e).backgroundColor), ground(e.parentElement));
  const ratio = (colour, below) => {
    const both = [light(over(channels(colour), below)), light(below)];
    return (Math.max(...both) + .05) / (Math.min(...both) + .05); };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (!e.checkVisibility() || e.disabled) continue;
    const style = getComputedStyle(e), hint = e.placeholder && !e.value;
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const told = own || hint || e.value;
    const colour = hint ? getComputedStyle(e, "::placeholder").color
      : e instanceof SVGElement ? style.fill : style.color;
    if (told && ratio(colour, ground(e)) < 4.5) found.push([e.tagName, e.className, colour]);
    const field = e.matches("input:not([type=checkbox]), select, textarea");
    if (field && ratio(style.borderTopColor, ground(e.parentElement)) < 3)
      found.push([e.tagName, "edge", style.borderTopColor]);
  }
  return found; })()"""


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
