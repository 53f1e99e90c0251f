"""The driver: a seeded client of both APIs, and the record of what it was told.

Submits with idempotency keys and tries again with the same key, at the other API, until it is
told yes or no; cancels some; approves or declines others; reads tasks now and then. Every answer
is in the history.
Units: seconds, milliseconds (*_ms).
"""

import asyncio
import contextlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from chaos.cluster import Cluster
from chaos.history import History
from chaos.nodes import REAL_POOL
from chaos.settings import Options

REQUEST_S_MAX = 8.0
RETRY_S = (0.2, 1.5)
REPO_TASKS = 40  # published into one repository: packs are looked through for each
PER_CENT_CANCELLED = 5
PER_CENT_REVIEWED = 5
REVIEW_S = 3600  # longer than a run
LOOK_S = 0.3  # between two looks at whether there is something to review
REAL_EVERY = 25  # one task in so many goes to the real runner
AT_ONCE_MAX = 64


@dataclass(frozen=True)
class Ask:
    """One task to submit, made from the seed."""

    number: int
    key: str
    project: str
    body: dict[str, Any]
    cancel_after_s: float | None
    decision: str = ""  # what a person says of its result; empty: nobody is asked


def project_names(options: Options) -> dict[str, int]:
    """Name → running_limit: tight ones, so that limits are met, and a wide one."""
    limits = [2, 4, 3, 100, 6]
    return {f"p{n}": limits[n % len(limits)] for n in range(options.projects)}


def plan(options: Options, rng: random.Random, repos: list[str]) -> list[Ask]:
    # As often as they may run, so that the tight ones are met and still come to an end in time.
    names = [name for name, limit in project_names(options).items() for _ in range(min(limit, 12))]
    return [_ask(options, rng, number, names, repos) for number in range(options.tasks)]


def _ask(
    options: Options, rng: random.Random, number: int, names: list[str], repos: list[str]
) -> Ask:
    end = rng.choices(["ok", "fail-first", "fail", "nothing"], [88, 6, 4, 2])[0]
    long_ms = int(options.lease_ttl_s * 1000 * rng.uniform(1.2, 2.5))
    work_ms = long_ms if rng.random() < 0.06 else int(rng.lognormvariate(5.5, 0.9))
    real = number % REAL_EVERY == REAL_EVERY - 1
    key = f"run{options.seed}-task-{number}"
    body: dict[str, Any] = {
        "title": key,
        "prompt": f"Task {number} of seed {options.seed}",
        "repo": repos[number // REPO_TASKS % len(repos)],
        "agent": {"argv": ["chaos", json.dumps({"work_ms": work_ms, "end": end})]},
        "retry": {"attempts_max": 3, "backoff_ms": 200},
        "priority": rng.choice([0, 0, 0, 5, -5]),
    }
    if rng.random() < 0.1:
        body["verify"] = [rng.choice(["true", "true", "true", "false"])]
    if real:
        body |= {"pool": REAL_POOL, "agent": {"argv": ["sh", "-c", f"echo {key} > real.txt"]}}
        body.pop("verify", None)
    cancel_after_s = rng.uniform(0.0, 2.0) if rng.random() * 100 < PER_CENT_CANCELLED else None
    decision = ""
    if rng.random() * 100 < PER_CENT_REVIEWED:
        body["review_s"] = REVIEW_S
        decision = rng.choice(["approved", "approved", "declined"])
    return Ask(number, key, rng.choice(names), body, cancel_after_s, decision)


class Driver:
    def __init__(self, cluster: Cluster, history: History, options: Options) -> None:
        self._cluster, self._history, self._options = cluster, history, options
        self._rng = random.Random(options.seed + 1)
        self._http: dict[str, httpx.AsyncClient] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)
        self.told: dict[str, str] = {}  # key → task id
        self._decisions: dict[str, str] = {}  # by task, until they are said
        self.repos: list[str] = []
        self.extra = 0  # tasks beyond the plan: canaries, bursts, the flood
        self.done_submitting = False

    async def open(self) -> None:
        token = self._cluster.credentials.admin_token
        for name, url in self._cluster.api_urls.items():
            self._http[name] = httpx.AsyncClient(
                base_url=url,
                headers={"Authorization": f"Bearer {token}"},
                timeout=REQUEST_S_MAX,
                limits=httpx.Limits(max_connections=100),
            )
        for name, limit in project_names(self._options).items():
            await self.project(name, limit)

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for http in self._http.values():
            await http.aclose()

    async def project(self, name: str, limit: int, weight: int = 1) -> None:
        body = {"name": name, "running_limit": limit, "weight": weight}
        await self._until_told("project", {"project": name}, "/v1/projects", body, {})

    async def run(self, asks: list[Ask], over_s: float) -> None:
        """All of them, spread evenly; a slow answer delays nobody else."""
        began = self._history.now()
        try:
            for ask in asks:
                due = began + over_s * ask.number / max(1, len(asks))
                await asyncio.sleep(max(0.0, due - self._history.now()))
                self.start(ask)
        finally:
            self.done_submitting = True

    def start(self, ask: Ask) -> None:
        self._spawn(self._one(ask))

    async def settled(self, timeout_s: float) -> None:
        """Until every submission was told yes or no."""
        if self._background:
            await asyncio.wait(self._background, timeout=timeout_s)

    async def read_on(self) -> None:
        """Looks at a task now and then, until cancelled: what is told final must stay so."""
        while True:
            await asyncio.sleep(self._rng.uniform(0.2, 0.6))
            if self.told:
                task_id = self._rng.choice(list(self.told.values()))
                await self._read(task_id)

    async def review_on(self) -> None:
        """Decides what there is to decide, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            for task_id in await self._in_review():
                if decision := self._decisions.pop(task_id, ""):
                    self._spawn(self._review(task_id, decision))

    async def submit(self, project: str, *, name: str, api: str = "", **more: Any) -> str | None:
        """A task beyond the plan: work for `work_ms`, then a change. Its id."""
        self.extra += 1
        key = f"run{self._options.seed}-{name}-{self.extra}"
        work = {"work_ms": more.pop("work_ms", 50), "end": "ok"}
        body = {
            "title": key,
            "prompt": f"{name} of seed {self._options.seed}",
            "repo": self.repos[-1 - self.extra // REPO_TASKS % 4],
            "agent": {"argv": ["chaos", json.dumps(work)]},
            "retry": {"attempts_max": 3, "backoff_ms": 200},
            **more,
        }
        return await self._submitted(Ask(-1, key, project, body, None), first_api=api)

    async def burst(self, count: int, name: str, work_ms: int = 300) -> list[str]:
        """Many tasks at once, so that a fault finds work under way."""
        names = ["p1", "p3", "p4"]  # whose limits leave room for it
        asked = [
            self.submit(names[n % len(names)], name=name, work_ms=work_ms) for n in range(count)
        ]
        return [task_id for task_id in await asyncio.gather(*asked) if task_id]

    def burst_soon(self, count: int, name: str, work_ms: int = 300) -> None:
        self._spawn(self.burst(count, name, work_ms))

    # --- one request --------------------------------------------------------------------------

    async def _one(self, ask: Ask) -> None:
        async with self._slots:
            task_id = await self._submitted(ask)
        if task_id is not None and ask.decision:
            self._history.note("client", "review-wanted", task_id=task_id)
            self._decisions[task_id] = ask.decision
        if task_id is not None and ask.cancel_after_s is not None:
            await asyncio.sleep(ask.cancel_after_s)
            await self._cancel(task_id)

    async def _submitted(self, ask: Ask, first_api: str = "") -> str | None:
        told = await self._until_told(
            "submit",
            {"key": ask.key, "project": ask.project},
            "/v1/tasks",
            {"project": ask.project, **ask.body},
            {"Idempotency-Key": ask.key},
            first_api=first_api,
        )
        if told is None:
            return None
        self.told[ask.key] = told["task_id"]
        return str(told["task_id"])

    async def _cancel(self, task_id: str) -> None:
        await self._until_told(
            "cancel", {"task_id": task_id}, f"/v1/tasks/{task_id}/cancel", {}, {}
        )

    async def _in_review(self) -> list[str]:
        http = self._http[self._rng.choice(list(self._http))]
        with contextlib.suppress(httpx.HTTPError):
            reply = await http.get("/v1/tasks", params={"state": "review", "limit": 200})
            return [task["task_id"] for task in _json(reply).get("tasks", ())]
        return []

    async def _review(self, task_id: str, decision: str) -> None:
        about = {"task_id": task_id, "decision": decision}
        path = f"/v1/tasks/{task_id}/review"
        await self._until_told("review", about, path, {"decision": decision}, {})

    async def _read(self, task_id: str) -> None:
        http = self._http[self._rng.choice(list(self._http))]
        with contextlib.suppress(httpx.HTTPError):
            reply = await http.get(f"/v1/tasks/{task_id}")
            if reply.status_code == 200:
                task = reply.json()
                state = {name: task[name] for name in ("state", "commit", "proof_id")}
                self._history.add("client", "read", "ok", task_id=task_id, **state)

    async def _until_told(
        self,
        op: str,
        about: dict[str, Any],
        path: str,
        body: dict[str, Any],
        headers: dict[str, str],
        first_api: str = "",
    ) -> dict[str, Any] | None:
        """The answer, or None for a refusal. 429 and 5xx are asked again, the other API's turn."""
        names = list(self._http)
        turn = names.index(first_api) if first_api else self._rng.randrange(len(names))
        while True:
            api = names[turn % len(names)]
            turn += 1
            self._history.add("client", op, "invoke", **about, api=api)
            try:
                reply = await self._http[api].post(path, json=body, headers=headers)
            except httpx.HTTPError as e:
                self._history.add("client", op, "unknown", **about, api=api, error=repr(e)[:120])
            else:
                answer = _json(reply)
                if reply.status_code < 300:
                    told = {k: answer.get(k) for k in ("task_id", "created", "state", "accepted")}
                    self._history.add("client", op, "ok", **{**about, **_known(told)}, api=api)
                    return answer
                code = {"status": reply.status_code, "code": answer.get("code", "")}
                phase = (
                    "fail" if reply.status_code < 500 and reply.status_code != 429 else "unknown"
                )
                self._history.add("client", op, phase, **about, **code, api=api)
                if phase == "fail":
                    return None
            await asyncio.sleep(self._rng.uniform(*RETRY_S))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _json(reply: httpx.Response) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = reply.json()
        if isinstance(found, dict):
            return found
    return {}


def _known(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if value is not None}


def make_repositories(folder: Path, count: int, uid: int) -> list[str]:
    """Bare ones with one commit, all alike, owned by the runners' uid."""
    import os
    import shutil

    import gitrepos

    first = gitrepos.make(folder / "r0", {"README.md": b"chaos\n", "result.txt": b"\n"}, bare=True)
    shutil.rmtree(folder / "r0-work")
    for n in range(1, count):
        shutil.copytree(first, folder / f"r{n}")
    for path, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(os.path.join(path, name), uid, uid)
    return [str(folder / f"r{n}") for n in range(count)]
