"""A rolling upgrade under load: the previous version's code and schemas, replaced part by part.

The cluster of `make chaos` is started from the tree of an earlier commit, on that tree's schemas.
Under load the schemas are brought to this tree's revisions while every process is still the old
one; then the processes are replaced one after the other, so that old and new work on the same rows
and speak to each other, either asking the other. What clients were told is judged as in chaos.
Raises: RuntimeError when a process does not end, does not come back, or a task is not published.
"""

import asyncio
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
from chaos.nodes import APIS, FLOOD_RUNNER, GATEWAY, PROOF_STORES, REAL_RUNNER, SCHEDULERS
from chaos.run import Run, Summary, say

END_S_MAX = 30.0
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


class OldCluster(cluster.Cluster):
    """Of another tree, until `replace`d."""

    up_s_max = 240.0  # what waits for a process to come up here is a test of what works meanwhile
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
        self.mixed = 0  # tasks published while old and new were at work side by side

    async def _faults(self, over_s: float) -> None:
        began = time.monotonic()
        assert not any(self.cluster.trees_in_use().values())
        await self._published("the old version")
        self.revisions.append(await self._revisions())
        await asyncio.to_thread(self.cluster.migrate_to_this)
        self.revisions.append(await self._revisions())
        await self._published("old code, new schemas")
        for name in (order := self._order()):
            await self.cluster.replace(name)
            await self._published(f"{name} replaced")
            self.mixed += name != order[-1]
        self.cluster.nodes[FLOOD_RUNNER].process = self.cluster.new[FLOOD_RUNNER]
        assert all(self.cluster.trees_in_use().values())
        # The rest of the plan's tasks, all by the new version.
        await asyncio.sleep(max(0.0, over_s - (time.monotonic() - began)))

    def _order(self) -> tuple[str, ...]:
        """One of each kind first: nothing says which part an orchestrator replaces when."""
        kinds = (self.cluster.lean, SCHEDULERS, APIS, PROOF_STORES)
        first, rest = [each[0] for each in kinds], [name for each in kinds for name in each[1:]]
        return (*first, GATEWAY, *rest, REAL_RUNNER)

    async def _published(self, after: str) -> None:
        seconds = await self._canary(after)
        if seconds > self.options.recovery_s_max:
            raise RuntimeError(f"{after}: no task was published within {seconds:.0f} s")
        say(f"{self.history.now():6.0f} s  {after}: a task was published in {seconds:.1f} s")

    async def _revisions(self) -> dict[str, str]:
        found = {}
        for schema, _ in provision.SCHEMAS.values():
            sql = f'SELECT version_num FROM "{schema}".migration'
            found[schema] = str(await self.observer.value(sql))
        return found

    def _summary(self, *arguments: Any) -> Summary:
        return {**super()._summary(*arguments), "revisions": self.revisions, "mixed": self.mixed}
