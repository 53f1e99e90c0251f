"""The whole stack, from its lock to its end: `run` keeps it in the foreground.

Order: lock → port → Postgres and NATS → roles and migrations when something changed → services,
which wait for their servers by themselves → ready. Everything ends in reverse. A stack that is
killed leaves nothing: the kernel ends its children (processes.py), and frees the lock.
Raises: SystemExit with what to do; state.Held when another stack has the data directory.
"""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from wfhub_admin.folders import grown_keys
from wfhub_admin.settings import ProvisionSettings

from wfhub_local import asked, database, ports, servers, state
from wfhub_local.credentials import Credentials, load_or_create
from wfhub_local.database import Database
from wfhub_local.ephemeral import StackHandle, ephemeral
from wfhub_local.layout import Layout
from wfhub_local.services import HTTP_SERVICES, Setting, Where, all_of
from wfhub_local.settings import Options, picked
from wfhub_local.signing_key import publish_key
from wfhub_local.state import State
from wfhub_local.supervisor import Asked, Failed, Supervisor

__all__ = ["StackHandle", "ephemeral", "run"]

SERVERS_S_MAX = 180.0  # recovery after a kill included, on a busy machine
SERVICES_S_MAX = 180.0  # the runner tries its sandbox first; one that ends is noticed at once
IMAGES_S_MAX = 1200.0  # longer, where a runner fetches images before it is ready
SERVERS, SERVICES, RUNNERS = range(3)  # groups, in the order of start
UNTIL_POLL_S = 0.2

Say = Callable[[str], None]


def run(
    options: Options,
    *,
    user_env: Mapping[str, str],
    say: Say,
    until: Callable[[], bool] | None = None,
) -> None:
    """Until a signal asks for the end, or `until` says so."""
    layout = Layout(options.data)
    layout.make()
    with ExitStack() as at_end:
        lock = state.acquire(layout)
        at_end.callback(os.close, lock)
        supervisor = Supervisor(say)
        at_end.enter_context(supervisor.signals())
        at_end.callback(supervisor.stop)
        at_end.callback(layout.state.unlink, missing_ok=True)
        at_end.callback(layout.asked.unlink, missing_ok=True)
        try:
            _start(options, layout, supervisor, user_env, say, at_end)
            supervisor.run(until=until or _never, poll_s=UNTIL_POLL_S if until else 3600.0)
            say("stopping")
        except Asked:
            say("stopping before it was ready")
        except Failed as e:
            raise SystemExit(f"the stack stops: {e}") from e


def _never() -> bool:
    return False


def _start(
    options: Options,
    layout: Layout,
    supervisor: Supervisor,
    user_env: Mapping[str, str],
    say: Say,
    at_end: ExitStack,
) -> None:
    public = at_end.enter_context(ports.listening(options.port))
    url = f"http://{ports.HOST}:{ports.port_of(public)}"
    state.write(layout, State(url, os.getpid(), str(layout.admin_token)))
    asked.keep(layout, options, user_env, port=ports.port_of(public))
    provision = ProvisionSettings.from_env(picked(user_env, ("SEALING_KEY",)))
    credentials = load_or_create(layout, options.runners, options.subscribers)
    nats_url = _nats(options, layout, credentials, supervisor)
    where_data = _database(options, layout, credentials, supervisor, say)
    publish_key(layout, uid=servers.uid_of("proof-store"))

    listeners = {service: at_end.enter_context(ports.listening()) for service in HTTP_SERVICES[:-1]}
    listeners[HTTP_SERVICES[-1]] = public
    setting = Setting(
        options=options,
        layout=layout,
        credentials=credentials,
        sealing_keys=grown_keys(layout.sealing_keys, provision.sealing_key),
        where=_where(options, nats_url, where_data, listeners),
        user_env=user_env,
    )
    for process in all_of(setting):
        is_runner = process.name not in credentials.nats
        supervisor.start(process, group=RUNNERS if is_runner else SERVICES)
    fetches = user_env.get("SANDBOX_BACKEND") == "container"
    supervisor.wait_up(timeout_s=SERVICES_S_MAX + (IMAGES_S_MAX if fetches else 0))
    supervisor.mark_ready()
    state.write(layout, State(url, os.getpid(), str(layout.admin_token), ready=True))
    say(f"token in {layout.admin_token}, logs in {layout.data / 'logs'}")
    say(f"ready {url}")


def _where(
    options: Options,
    nats_url: str,
    where_data: Database,
    listeners: Mapping[str, socket.socket],
) -> Where:
    return Where(
        nats_url=nats_url,
        nats_users=not options.nats_url,
        database_urls=where_data.urls,
        listeners={service: listener.fileno() for service, listener in listeners.items()},
        http_ports={service: ports.port_of(listener) for service, listener in listeners.items()},
    )


def _nats(
    options: Options, layout: Layout, credentials: Credentials, supervisor: Supervisor
) -> str:
    if options.nats_url:
        ports.check_reachable(options.nats_url, default_port=4222, option="--nats-url")
        return options.nats_url
    port = ports.free_port()
    process = servers.nats_process(
        layout, credentials, options.subscribers, uid=servers.uid_of("nats"), port=port
    )
    supervisor.start(process, group=SERVERS)
    return servers.nats_url(port)


def _database(
    options: Options, layout: Layout, credentials: Credentials, supervisor: Supervisor, say: Say
) -> Database:
    """When its schemas are current the services can start while Postgres does."""
    uid = servers.uid_of("postgres")
    if options.database_url:
        ports.check_reachable(options.database_url, default_port=5432, option="--database-url")
        found = database.external(options.database_url)
    else:
        port = ports.free_port()
        process = servers.postgres_process(layout, credentials, uid=uid, port=port, say=say)
        supervisor.start(process, group=SERVERS)
        found = database.embedded(credentials, port)
    if not database.is_current(found, layout, credentials):
        supervisor.wait_up(timeout_s=SERVERS_S_MAX)
        database.bring_up_to_date(found, layout, credentials, uid=uid, say=say)
    return found
