"""A rolling upgrade under load: the previous version's code and schemas, replaced part by part.

The cluster of `make chaos` is started from the tree of an earlier commit, on that tree's schemas.
Under load the schemas are brought to this tree's revisions while every process is still the old
one; then the processes are replaced one after the other, so that old and new work on the same rows
and speak to each other, either asking the other. What clients were told is judged as in chaos.
The load lasts as long as the upgrade does, and is so many tasks at once, not so many a second: on a
crowded machine a rate only makes a queue, and its end would be waited for instead of the upgrade.
Raises: RuntimeError when a process does not end, does not come back, or a task is not published.
"""

import asyncio
import math
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from wfhub_admin import database as provision
from wfhub_local import database, processes, servers
from wfhub_local.processes import Process

from chaos import cluster
from chaos.driver import Ask
from chaos.field import until
from chaos.nodes import APIS, FLOOD_RUNNER, GATEWAY, PROOF_STORES, REAL_RUNNER, SCHEDULERS
from chaos.run import Run, Summary, say

END_S_MAX = 60.0
PATIENCE_S = float(os.environ.get("UPGRADE_PATIENCE_S", "45"))  # after a step, for a new task
AT_ONCE = int(os.environ.get("UPGRADE_AT_ONCE", "14"))  # tasks of the load; six slots: most wait
LOOK_S = 0.2  # between two looks at the database, which has other work
PAUSE_S = 0.5  # between two tasks of the load: on a fast machine it need not be busier than that
STEP_TASKS = 3  # of the load, published after a step before the next one is taken
CODE = (  # where packages are in a tree; the order of the wheel's
    *("libs/common", "libs/client", "services/api", "services/scheduler", "services/agent-runner"),
    *("services/proof-store", "services/llm-gateway", "deploy/admin", "deploy/local", "tests"),
)


def tree_of(commit: str, repository: Path, folder: Path) -> Path:
    """The files of `commit`, readable for services of other uids. Raises: CalledProcessError."""
    folder.mkdir(mode=0o755)
    archive = folder.with_suffix(".tar")
    git = ["git", "-c", "safe.directory=*", "-C", str(repository), "archive", "-o", str(archive)]
    subprocess.run([*git, commit], check=True, capture_output=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    archive.unlink()
    return folder


def imported_from(path: str, module: str) -> Path:
    """Where `module` comes from for a process that is given this PYTHONPATH."""
    found = subprocess.run(
        [sys.executable, "-P", "-c", f"import {module}; print({module}.__file__)"],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(found.stdout.strip())


class OldCluster(cluster.Cluster):
    """Of another tree, until `replace`d."""

    up_s_max = 480.0  # what waits for a process to come up here is a test of what works meanwhile
    tree: Path  # set before the start
    urls: database.Database

    def old_path(self) -> str:
        return os.pathsep.join(str(self.tree / each) for each in CODE)

    def _migrate(self, found: database.Database) -> None:
        self.urls = found
        self._provision("migrate-old", {"PYTHONPATH": self.old_path()}, (self.tree,))

    def migrate_to_this(self) -> None:
        self._provision("migrate-new", {}, ())

    def _provision(self, name: str, env: dict[str, str], visible: tuple[Path, ...]) -> None:
        process = Process(
            name=name,
            argv=(sys.executable, "-P", "-m", provision.__name__),
            log=self.layout.log(name),
            uid=servers.uid_of("postgres"),
            env=env,
            visible=visible,
        )
        if processes.run(process, self.urls.plan.to_json()):
            raise RuntimeError(f"{name} failed:\n{processes.tail(process.log)}")

    def _add(self, name: str, made: Process, env: dict[str, str]) -> None:
        super()._add(name, made, env)
        self.new = getattr(self, "new", {})
        node = self.nodes[name]
        self.new[name] = node.process
        node.process = replace(
            node.process,
            env={**node.process.env, "PYTHONPATH": self.old_path()},
            visible=(*node.process.visible, self.tree),
        )

    async def replace(self, name: str) -> None:
        """Asked to end, as an orchestrator asks; then this tree's in its place."""
        node = self.nodes[name]
        node.wanted = False
        self.signal(name, signal.SIGTERM)
        assert node.running is not None
        deadline = time.monotonic() + END_S_MAX
        while node.alive:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not end:\n{processes.tail(node.process.log)}")
            await asyncio.sleep(0.02)
        if node.running.returncode:
            how = processes.how_it_ended(node.running.returncode)
            raise RuntimeError(f"{name} was asked to end and {how}")
        node.process = self.new[name]
        await self.bring_back(name)

    def trees_in_use(self) -> dict[str, bool]:
        """Whether each service that runs is this tree's, by its own environment."""
        return {
            name: str(self.tree).encode() not in Path(f"/proc/{node.pid}/environ").read_bytes()
            for name, node in self.nodes.items()
            if name in self.new and node.alive
        }


class Upgrade(Run):
    """`go` as in chaos; instead of faults, the upgrade."""

    cluster: OldCluster

    def __init__(self, options: Any, tree: Path) -> None:
        super().__init__(options)
        self.cluster = OldCluster(options, self.history)
        self.cluster.tree = tree
        self.observer._cluster = self.driver._cluster = self.cluster
        self.revisions: list[dict[str, str]] = []
        self.published = {"before": 0, "mixed": 0, "after": 0}  # tasks, by who was at work then
        self.upgraded = asyncio.Event()

    async def _load(self, asks: list[Ask], over_s: float) -> None:
        for ask in asks:
            await until(self._room, within_s=math.inf, every_s=LOOK_S)
            if self.upgraded.is_set():
                break
            self.driver.start(_as_before(ask))
            await asyncio.sleep(PAUSE_S)
        self.driver.done_submitting = True
        if not self.upgraded.is_set():
            raise RuntimeError(f"{len(asks)} tasks were not enough for the whole upgrade")

    async def _room(self) -> bool:
        """For one more task, or no more is wanted."""
        return self.upgraded.is_set() or await self.observer.live_tasks() < AT_ONCE

    async def _faults(self, over_s: float) -> None:
        try:
            await self._upgrade()
        finally:
            self.upgraded.set()

    async def _upgrade(self) -> None:
        assert not any(self.cluster.trees_in_use().values())
        await self._works("the old version", 0)
        before = await self._succeeded()
        self.revisions.append(await self._revisions())
        await asyncio.to_thread(self.cluster.migrate_to_this)
        self.revisions.append(await self._revisions())
        await self._works("old code, new schemas", before)
        for name in (order := self._order()):
            if name == order[-1]:
                mixed = await self._succeeded()
            began, count = self.history.now(), await self._succeeded()
            await self.cluster.replace(name)
            say(f"{self.history.now():6.0f} s  {name}: {self.history.now() - began:.1f} s away")
            await self._works(f"{name} replaced", count)
        self.cluster.nodes[FLOOD_RUNNER].process = self.cluster.new[FLOOD_RUNNER]
        assert all(self.cluster.trees_in_use().values())
        await self._proofs_verify()
        after = await self._succeeded()
        self.published = {"before": before, "mixed": mixed - before, "after": after - mixed}

    def _order(self) -> tuple[str, ...]:
        """One of each kind first: nothing says which part an orchestrator replaces when."""
        kinds = (self.cluster.lean, SCHEDULERS, APIS, PROOF_STORES)
        first, rest = [each[0] for each in kinds], [name for each in kinds for name in each[1:]]
        return (*first, GATEWAY, *rest, REAL_RUNNER)

    async def _works(self, after: str, count: int) -> None:
        """A task that is submitted now is published, and so are tasks of the load."""
        seconds = await self._canary(after)
        if seconds > self.options.recovery_s_max:
            why = await self._last_canary()
            raise RuntimeError(f"{after}: no task was published within {seconds:.0f} s\n{why}")

        async def enough() -> bool:
            return await self._succeeded() >= count + STEP_TASKS

        if not await until(enough, within_s=self.options.recovery_s_max, every_s=LOOK_S):
            raise RuntimeError(f"{after}: the load stands still")
        say(f"{self.history.now():6.0f} s  {after}: a task was published in {seconds:.1f} s")

    async def _proofs_verify(self) -> None:
        """The first and the last one, by the code before and by this one's."""
        rows = await self.observer.rows(
            "SELECT proof_id FROM sched.task WHERE state = 'succeeded' ORDER BY finished_at"
        )
        for proof_id in (rows[0]["proof_id"], rows[-1]["proof_id"]):
            file = str(self.options.folder / f"{proof_id}.json")
            await self._wfhub("", "proof", "export", proof_id, "-o", file)
            for path in (self.cluster.old_path(), ""):
                await self._wfhub(path, "proof", "verify", file)

    async def _wfhub(self, path: str, *words: str) -> None:
        """Of the code on that path, or of this tree."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.options.folder),
            "PYTHONPATH": path,
            "WFHUB_URL": next(iter(self.cluster.api_urls.values())),
            "WFHUB_TOKEN": self.cluster.credentials.admin_token,
            "WFHUB_PROOF_KEY": str(self.cluster.layout.public_key),
        }
        asked = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "wfhub_client.cli", *words),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        told, _ = await asked.communicate()
        if asked.returncode:
            raise RuntimeError(f"wfhub {' '.join(words)}: {told.decode()}")

    async def _succeeded(self) -> int:
        sql = "SELECT count(*) FROM sched.task WHERE state = 'succeeded'"
        return int(await self.observer.value(sql))

    async def _last_canary(self) -> str:
        """How far it came."""
        rows = await self.observer.rows(
            "SELECT t.task_id, t.state, t.reason, a.attempt_id, a.kind, a.state AS attempt,"
            " a.runner_id, a.reason AS why, a.created_at, a.started_at, a.finished_at"
            " FROM sched.task t LEFT JOIN sched.attempt a USING (task_id)"
            " WHERE t.title LIKE '%-canary-%' ORDER BY t.created_at DESC, a.created_at LIMIT 8"
        )
        live = await self.observer.rows("SELECT state, count(*) FROM sched.task GROUP BY state")
        return "\n".join(str(dict(row)) for row in (*rows, *live))

    async def _revisions(self) -> dict[str, str]:
        found = {}
        for schema, _ in provision.SCHEMAS.values():
            sql = f'SELECT version_num FROM "{schema}".migration'
            found[schema] = str(await self.observer.value(sql))
        return found

    def _summary(self, *arguments: Any) -> Summary:
        more = {"revisions": self.revisions, "published": self.published}
        return {**super()._summary(*arguments), **more}


def _as_before(ask: Ask) -> Ask:
    """Without what the version before cannot read: that is used once all are replaced."""
    body = {name: value for name, value in ask.body.items() if name != "review_s"}
    return replace(ask, body=body, decision="")
