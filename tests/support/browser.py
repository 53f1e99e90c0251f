"""Test support: a real chromium without a window, driven over its DevTools protocol.

Each page has a context of its own (storage, cookies, downloads). What it asked for, and what went
wrong in it (errors, violations of its policy), is kept. Waits are for the document to change.
Needs the Debian package `chromium`; `PROGRAM` is None where there is none.
"""

import asyncio
import base64
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_S = 30.0
DESKTOP, PHONE = (1360, 900), (390, 844)
_FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # reaches nobody else
)
_UNTIL = """new Promise((done) => {{
  const look = () => {{ let found = false; try {{ found = {condition}; }} catch {{}}
    if (found) {{ observer.disconnect(); clearInterval(timer); done(true); }} }};
  const observer = new MutationObserver(look);
  const all = {{subtree: true, childList: true, attributes: true, characterData: true}};
  observer.observe(document, all);
  const timer = setInterval(look, 100);  // for what is no change of the document: the address
  look();
}})"""


@dataclass
class Page:
    browser: "Browser"
    session: str
    context: str
    downloads: Path
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    async def call(self, method: str, **parameters: Any) -> Any:
        return await self.browser.call(method, parameters, self.session)

    async def open(self, url: str) -> None:
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def js(self, expression: str) -> Any:
        found = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise AssertionError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    async def until(self, condition: str) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._until(condition)
        except TimeoutError:
            text = await self.js("document.body.innerText")
            raise AssertionError(f"not so: {condition}\n{text}\n{self.problems}") from None

    async def _until(self, condition: str) -> None:
        while True:  # a page that is left takes the promise with it
            with contextlib.suppress(AssertionError, ProtocolError):
                if await self.js(_UNTIL.format(condition=condition)):
                    return
            await asyncio.sleep(0.02)

    async def until_text(self, text: str, within: str = "body") -> None:
        await self.until(
            f"document.querySelector({json.dumps(within)}).innerText.includes({json.dumps(text)})"
        )

    async def text(self, within: str = "body") -> str:
        return str(await self.js(f"document.querySelector({json.dumps(within)}).innerText"))

    async def click(self, text: str, within: str = "main, dialog, header") -> None:
        """A link, button or the like by what is written on it, with the mouse."""
        finds = (
            f"[...document.querySelectorAll({json.dumps(within)})].flatMap((part) => [...part"
            ".querySelectorAll('a, button, summary')]).findLast((e) => e.checkVisibility() &&"
            f" e.textContent.trim().startsWith({json.dumps(text)}))"
        )
        await self.until(f"{finds} !== undefined")
        place = await self.js(
            f"(() => {{ const e = {finds}; e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            at = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
            await self.call("Input.dispatchMouseEvent", type=kind, **at)

    async def type(self, selector: str, text: str) -> None:
        await self.until(f"document.querySelector({json.dumps(selector)}) !== null")
        await self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.call("Input.insertText", text=text)

    async def press(self, key: str, text: str = "") -> None:
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        for kind in ("keyDown", "keyUp"):
            event = {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
            if text and kind == "keyDown":
                event["text"] = text
            await self.call("Input.dispatchKeyEvent", **event)

    async def offline(self, is_offline: bool) -> None:
        conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await self.call("Network.emulateNetworkConditions", offline=is_offline, **conditions)

    async def look(self, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self) -> bytes:
        """A PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])

    def heard(self, method: str, parameters: Any) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(parameters["exceptionDetails"]))
            case "Audits.issueAdded":
                if "ContentSecurityPolicy" in parameters["issue"]["code"]:
                    self.problems.append(json.dumps(parameters["issue"]))
            case "Log.entryAdded":
                # Of the network's are answers that are errors, which the page itself shows.
                if parameters["entry"]["source"] in ("security", "javascript", "violation"):
                    self.problems.append(parameters["entry"]["text"])


class ProtocolError(Exception):
    """The browser refused a call."""


class Browser:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse, downloads: Path) -> None:
        self._socket = socket
        self._downloads = downloads
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._pages: dict[str, Page] = {}
        self.downloaded: asyncio.Queue[Path] = asyncio.Queue()
        self._names: dict[str, Path] = {}

    async def call(self, method: str, parameters: Any = None, session: str | None = None) -> Any:
        self._number += 1
        number = self._number
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters or {}}
        if session:
            message["sessionId"] = session
        await self._socket.send_json(message)
        return await answer

    async def listen(self) -> None:
        async for raw in self._socket:
            message = json.loads(raw.data)
            if "id" in message:
                self._answered(message)
            elif message["method"] == "Browser.downloadWillBegin":
                given = message["params"]
                self._names[given["guid"]] = self._downloads / given["suggestedFilename"]
            elif message["method"] == "Browser.downloadProgress":
                if message["params"]["state"] == "completed":
                    self.downloaded.put_nowait(self._names[message["params"]["guid"]])
            elif page := self._pages.get(message.get("sessionId", "")):
                page.heard(message["method"], message["params"])

    def _answered(self, message: Any) -> None:
        answer = self._answers.pop(message["id"])
        if answer.done():
            return
        if "error" in message:
            answer.set_exception(ProtocolError(message["error"]["message"]))
        else:
            answer.set_result(message["result"])

    async def page(self, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> Page:
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = await self.call(
            "Target.createTarget", {"url": "about:blank", "browserContextId": context}
        )
        attached = {"targetId": target["targetId"], "flatten": True}
        session = (await self.call("Target.attachToTarget", attached))["sessionId"]
        made = self._pages[session] = Page(self, session, context, self._downloads)
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            await made.call(f"{domain}.enable")
        await made.look(size=size, dark=dark)
        saving = {"behavior": "allow", "downloadPath": str(self._downloads), "eventsEnabled": True}
        await self.call("Browser.setDownloadBehavior", {**saving, "browserContextId": context})
        return made

    async def close(self, page: Page) -> None:
        del self._pages[page.session]
        await self.call("Target.disposeBrowserContext", {"browserContextId": page.context})


@contextlib.asynccontextmanager
async def running(home: Path) -> AsyncIterator[Browser]:
    assert PROGRAM is not None
    downloads = home / "downloads"
    downloads.mkdir()
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to have one as root
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, *_FLAGS, *sandbox, f"--user-data-dir={home / 'profile'}", "about:blank"),
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        address = await _address(process)
        draining = asyncio.create_task(_drained(process))
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(address, max_msg_size=0) as socket,
        ):
            browser = Browser(socket, downloads)
            listening = asyncio.create_task(browser.listen())
            yield browser
            listening.cancel()
        draining.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = b""
    async with asyncio.timeout(WAIT_S):
        while line := await process.stderr.readline():
            said += line
            if b"DevTools listening on " in line:
                return line.decode().partition("listening on ")[2].strip()
    raise RuntimeError(f"chromium did not start:\n{said.decode(errors='replace')}")


async def _drained(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    while await process.stderr.readline():
        pass
