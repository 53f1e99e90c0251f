"""The cluster: every process of the product, replicated, each behind proxies of its own.

nats-server (file store, the product's users and permissions), Postgres (fsync on), three
schedulers, two APIs, two proof-stores on one PROOFS_ROOT, the LLM gateway, lean runners, one real
runner with its sandbox. Started as the local stack starts them (wfhub_local): a uid each as root,
files for secrets, and a signal from the kernel that ends them when this process dies.
A process that ends by itself is started anew, as its supervisor would; each end is in the history.
Raises: RuntimeError with the log's tail when the cluster does not come up.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
from wfhub_admin.files import private_file, private_folder
from wfhub_common import subjects
from wfhub_local import database, ports, processes, servers, services
from wfhub_local.credentials import Credentials, load_or_create
from wfhub_local.layout import Layout
from wfhub_local.processes import Process
from wfhub_local.services import RUNNER, Own, Setting, Where
from wfhub_local.settings import Options as StackOptions
from wfhub_local.signing_key import publish_key

from chaos.history import History
from chaos.nodes import (
    APIS,
    FLOOD_POOL,
    FLOOD_RUNNER,
    GATEWAY,
    NATS,
    OBSERVER,
    POSTGRES,
    PROOF_STORES,
    REAL_POOL,
    REAL_RUNNER,
    SCHEDULERS,
    WATCHER,
    Node,
    kill_tree,
    own_users,
    service_of,
)
from chaos.proxy import Proxy
from chaos.settings import Options

TESTS = Path(__file__).parent.parent
PG_CONNECTIONS = 300
UP_S_MAX = 90.0
RESTART_S = (0.3, 2.0)  # first and longest wait before what ended by itself is started anew


class Cluster:
    up_s_max = UP_S_MAX

    def __init__(self, options: Options, history: History) -> None:
        self.options, self.history = options, history
        self.layout = Layout(options.folder / "data")
        self.nodes: dict[str, Node] = {}
        self.nats_proxies: dict[str, Proxy] = {}
        self.pg_proxies: dict[str, Proxy] = {}
        self.lean = tuple(f"runner-{n}" for n in range(1, options.runners + 1))
        self.runner_ids: dict[str, str] = {}
        self.credentials: Credentials
        self.passwords: dict[str, str] = {}  # of WATCHER and OBSERVER
        self.admin_url = ""  # Postgres, directly, as its superuser
        self.nats_url = ""  # directly
        self.api_urls: dict[str, str] = {}
        self.nats_port = self.pg_port = 0
        self._sockets: list[socket.socket] = []
        self._supervising: asyncio.Task[None] | None = None

    # --- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        self.layout.make()
        names = (*self.lean, REAL_RUNNER, FLOOD_RUNNER)
        self.credentials = load_or_create(self.layout, len(names))
        self.runner_ids = dict(zip(names, self.credentials.runner_ids, strict=True))
        self.nats_port, self.pg_port = ports.free_port(), ports.free_port()
        self._add_nats()
        self._add_postgres()
        await self._up(NATS, POSTGRES)
        found = database.embedded(self.credentials, self.pg_port)
        self.admin_url = f"{found.plan.admin_url}/wfhub"
        self._migrate(found)
        publish_key(self.layout, uid=servers.uid_of(subjects.PROOF_STORE))
        await self._add_services(found.urls)
        await self._up(*self.nodes)
        self._supervising = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        if self._supervising is not None:
            self._supervising.cancel()
            await asyncio.gather(self._supervising, return_exceptions=True)
        for node in reversed(self.nodes.values()):
            if node.running is not None:
                node.wanted = False
                kill_tree(node)
                node.running.wait()
        for proxy in (*self.nats_proxies.values(), *self.pg_proxies.values()):
            await proxy.stop()
        for listener in self._sockets:
            listener.close()

    def kill(self, name: str) -> int:
        """kill -9, and it stays down until `bring_back`. Postgres: every process of it."""
        node = self.nodes[name]
        node.wanted = False
        pid = node.pid
        kill_tree(node)
        assert node.running is not None
        node.running.wait()
        self.history.note("cluster", "killed", node=name, pid=pid)
        return pid

    async def bring_back(self, *names: str, wait: bool = True) -> None:
        for name in names:
            node = self.nodes[name]
            if not node.alive:
                self._launch(node)
            node.wanted = True
            self.history.note("cluster", "started", node=name, pid=node.pid)
        if wait:
            await self._up(*names)

    def signal(self, name: str, number: signal.Signals) -> None:
        """To the process alone: Postgres and sandboxes are not stopped by parts."""
        os.kill(self.nodes[name].pid, number)
        self.history.note("cluster", number.name, node=name)

    def pause(self, name: str) -> None:
        """SIGSTOP, and wait until the kernel shows it stopped."""
        self.signal(name, signal.SIGSTOP)
        deadline = time.monotonic() + 1
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.nodes[name].pid)
            while process.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
                time.sleep(0.0005)

    def resume(self, name: str) -> None:
        if self.nodes[name].alive:
            self.signal(name, signal.SIGCONT)

    def away(self) -> list[str]:
        """What a fault ended and did not bring back."""
        return [
            name
            for name, node in self.nodes.items()
            if not node.wanted and node.running is not None
        ]

    def heal(self) -> None:
        """No network fault is left; what is stopped goes on."""
        for proxy in (*self.nats_proxies.values(), *self.pg_proxies.values()):
            proxy.heal()
        for name, node in self.nodes.items():
            if node.alive and psutil.Process(node.pid).status() == psutil.STATUS_STOPPED:
                self.resume(name)

    def cpu_s(self, name: str) -> float:
        times = psutil.Process(self.nodes[name].pid).cpu_times()
        return float(times.user + times.system)

    def api_listeners(self) -> dict[str, str]:
        return self.api_urls

    def _migrate(self, found: database.Database) -> None:
        uid = servers.uid_of("postgres")
        database.bring_up_to_date(found, self.layout, self.credentials, uid=uid, say=_silent)

    # --- what there is ------------------------------------------------------------------------

    def _add_nats(self) -> None:
        self.passwords = {user: os.urandom(16).hex() for user in (WATCHER, OBSERVER)}
        self.nats_url = servers.nats_url(self.nats_port)
        uid = servers.uid_of("nats")
        process = servers.nats_process(self.layout, self.credentials, uid=uid, port=self.nats_port)
        root = private_folder(self.layout.nats, uid)
        configuration = json.loads((root / "nats.conf").read_text())
        configuration["jetstream"]["sync_interval"] = "always"  # as in production
        configuration["accounts"]["HUB"]["users"] += own_users(self.passwords)
        private_file(root / "nats.conf", json.dumps(configuration, indent=1), uid)
        self.nodes[NATS] = Node(NATS, process)

    def _add_postgres(self) -> None:
        process = servers.postgres_process(
            self.layout,
            self.credentials,
            uid=servers.uid_of("postgres"),
            port=self.pg_port,
            say=_silent,
        )
        more = ("-c", f"max_connections={PG_CONNECTIONS}", "-c", "fsync=on")
        self.nodes[POSTGRES] = Node(POSTGRES, replace(process, argv=(*process.argv, *more)))

    async def _add_services(self, urls: dict[str, str]) -> None:
        pace = {
            "LEASE_TTL_S": str(self.options.lease_ttl_s),
            "HEARTBEAT_S": str(self.options.heartbeat_s),
            "RETRY_BASE_S": str(self.options.retry_base_s),
        }
        stores = {name: self._listening() for name in PROOF_STORES}
        apis = {name: self._listening() for name in APIS}
        gateway = self._listening()
        self.nats_proxies[WATCHER] = Proxy(WATCHER, self.nats_port, nats=True)
        await self.nats_proxies[WATCHER].start()
        self.api_urls = {name: f"http://127.0.0.1:{ports.port_of(s)}" for name, s in apis.items()}

        async def where(name: str, turn: int = 0, own: socket.socket | None = None) -> Where:
            """What `name` is told: its own proxies; one of the proof-stores."""
            nats = self.nats_proxies[name] = Proxy(name, self.nats_port, nats=True)
            pg = self.pg_proxies[name] = Proxy(name, self.pg_port, nats=False)
            await nats.start()
            await pg.start()
            store = list(stores.values())[turn % len(stores)]
            ports_of = {
                subjects.PROOF_STORE: ports.port_of(store),
                subjects.GATEWAY: ports.port_of(gateway),
                subjects.API: 0,
            }
            mine = {s: own.fileno() for s in ports_of if own is not None}
            if own is not None:
                ports_of = {**ports_of, service_of(name): ports.port_of(own)}
            return Where(
                nats_url=servers.nats_url(nats.port),
                nats_users=True,
                database_urls={
                    s: url.replace(f":{self.pg_port}/", f":{pg.port}/") for s, url in urls.items()
                },
                listeners=mine,
                http_ports=ports_of,
            )

        async def service(name: str, own_of: Callable[[Setting], Own], **at: Any) -> None:
            setting = self._setting(await where(name, **at))
            kind = service_of(name)
            made = services._process(setting, kind, own_of(setting), name=name, sender=kind)
            extra = pace if kind == subjects.SCHEDULER else {}
            self._add(name, made, extra)

        for name in SCHEDULERS:
            await service(name, services.scheduler)
            self.nodes[name].ready_line = b"scheduler ready"
        for turn, name in enumerate(PROOF_STORES):
            await service(name, services.proof_store, turn=turn, own=stores[name])
        await service(GATEWAY, services.gateway, own=gateway)
        for turn, name in enumerate(APIS):
            await service(name, services.api, turn=turn, own=apis[name])
        for turn, name in enumerate(self.runner_ids):
            self._add_runner(name, turn, self._setting(await where(name, turn)))

    def _add_runner(self, name: str, turn: int, setting: Setting) -> None:
        made = services.runner_process(setting, turn + 1)  # its identity is the turn-th
        env = {"RUNNER_NAME": name, "RUNNER_SLOTS": str(self.options.slots)}
        if name == REAL_RUNNER:
            env |= {"RUNNER_POOL": REAL_POOL, "RUNNER_SLOTS": "2"}
            self._add(name, made, env)
            return
        home = self.layout.home(f"runner-{turn + 1}")
        uid = servers.uid_of(RUNNER)
        records = private_folder(self.layout.data / "records", uid)
        env |= {
            "RUNNER_POOL": FLOOD_POOL if name == FLOOD_RUNNER else "default",
            "CHAOS_RECORDS": str(records / f"{name}.jsonl"),
            "CHAOS_BEGAN": repr(self.history.began),
            "HOME": str(home),
        }
        lean = replace(
            made,
            argv=(sys.executable, "-P", "-m", "chaos.lean_runner"),
            uid=uid,
            visible=(*made.visible, TESTS),
            writable=(*made.writable, records),
        )
        self._add(name, lean, env)
        self.nodes[name].wanted = name != FLOOD_RUNNER  # started by its fault

    def _add(self, name: str, made: Process, env: dict[str, str]) -> None:
        path = os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(TESTS)])
        process = replace(
            made,
            name=name,
            log=self.layout.log(name),
            # A service refuses to start on a clock as wrong as a fault makes it; what happens when
            # one goes wrong later is what is looked at here.
            env={
                **made.env,
                "PYTHONPATH": path.strip(os.pathsep),
                "CLOCK_SKEW_S_MAX": "1e6",
                **env,
            },
        )
        self.nodes[name] = Node(name, process)

    def _setting(self, where: Where) -> Setting:
        return Setting(
            options=StackOptions(
                data=self.layout.data, runners=len(self.runner_ids), slots=self.options.slots
            ),
            layout=self.layout,
            credentials=self.credentials,
            where=where,
            user_env={},
        )

    def _listening(self) -> socket.socket:
        listener = ports.listening()
        self._sockets.append(listener)
        return listener

    # --- processes ----------------------------------------------------------------------------

    def _launch(self, node: Node) -> None:
        log = node.process.log
        node.log_from = log.stat().st_size if log.exists() else 0
        node.running = processes.start(node.process)

    async def _up(self, *names: str) -> None:
        nodes = [self.nodes[name] for name in names if self.nodes[name].wanted]
        for node in nodes:
            if not node.alive:
                self._launch(node)
        deadline = time.monotonic() + self.up_s_max
        for node in nodes:
            while not await self._is_up(node):
                if time.monotonic() > deadline:
                    tail = processes.tail(node.process.log)
                    raise RuntimeError(f"{node.name} did not come up:\n{tail}")
                await asyncio.sleep(0.05)

    async def _is_up(self, node: Node) -> bool:
        if not node.alive:
            self._ended(node)
            self._launch(node)
            return False
        if node.ready_line:
            with node.process.log.open("rb") as file:
                file.seek(node.log_from)
                return node.ready_line in file.read()
        if node.name.startswith(("proof-store", "api", GATEWAY)):
            url = f"http://127.0.0.1:{self._http_port(node)}/readyz"
            async with httpx.AsyncClient(timeout=2.0) as http:
                with contextlib.suppress(httpx.HTTPError):
                    return (await http.get(url)).status_code == 200
            return False
        return await asyncio.to_thread(node.process.is_up)

    def _http_port(self, node: Node) -> int:
        (descriptor,) = node.process.descriptors
        return next(ports.port_of(s) for s in self._sockets if s.fileno() == descriptor)

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for node in self.nodes.values():
                if node.wanted and node.running is not None and not node.alive:
                    self._ended(node)
                    wait_s = min(RESTART_S[1], RESTART_S[0] * 2 ** min(len(node.ends) - 1, 4))
                    if time.monotonic() - node.ends[-1] < wait_s:
                        continue
                    self._launch(node)

    def _ended(self, node: Node) -> None:
        """Noted once an end; ends older than a minute no longer count for the wait."""
        assert node.running is not None
        if getattr(node.running, "noted", False):
            return
        node.running.noted = True  # type: ignore[attr-defined]  # ours, on the Popen it is about
        now = time.monotonic()
        node.ends = [*(at for at in node.ends if now - at < 60), now]
        code = node.running.returncode
        self.history.note("cluster", "ended", node=node.name, how=processes.how_it_ended(code))


def _silent(_line: str) -> None:
    return None
