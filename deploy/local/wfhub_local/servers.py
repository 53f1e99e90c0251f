"""The two embedded servers as processes: Postgres and NATS, each with its folder and its port."""

import os
import signal
from collections.abc import Callable, Collection, Mapping

from wfhub_admin.files import private_file, private_folder
from wfhub_admin.subscribers import Subscriber, told
from wfhub_common import privileges

from wfhub_local import nats_server, ports, postgres, processes
from wfhub_local.credentials import DATABASE_ADMIN, Credentials
from wfhub_local.layout import Layout
from wfhub_local.processes import Process
from wfhub_local.settings import is_root


def uid_of(service: str) -> int:
    """A uid of its own where this process is root, else everyone's is ours."""
    return privileges.SERVICE_UIDS[service] if is_root() else os.getuid()


def postgres_process(
    layout: Layout, credentials: Credentials, *, uid: int, port: int, say: Callable[[str], None]
) -> Process:
    """Makes the database when there is none yet. Raises: SystemExit."""
    root = private_folder(layout.postgres, uid)
    log = layout.log("postgres")
    if not postgres.is_made(root):
        say("first start: creating the database (some seconds)")
        maker = Process(
            name="initdb",
            argv=tuple(postgres.initdb_argv(root)),
            log=log,
            uid=uid,
            writable=(root,),
        )
        password = credentials.database[DATABASE_ADMIN]
        postgres.make(root, password, uid, lambda: processes.run(maker, ""), log)
    return Process(
        name="postgres",
        argv=tuple(postgres.argv(root, port)),
        log=log,
        uid=uid,
        writable=(root,),
        stop_signal=signal.SIGINT,  # fast shutdown: sessions are ended, a checkpoint is written
        death_signal=signal.SIGQUIT,  # at once; the next start recovers from the log
        before=lambda: postgres.clear_old(root),
        is_up=lambda: postgres.is_up(root),
    )


def nats_process(
    layout: Layout,
    credentials: Credentials,
    subscribers: Collection[Subscriber] = (),
    *,
    uid: int,
    port: int,
) -> Process:
    """And the files that tell subscribers where it is."""
    root = private_folder(layout.nats, uid)
    passwords = {each: credentials.subscribers[each.name] for each in subscribers}
    text = nats_server.configuration(
        port=port, store=root / "jetstream", passwords=credentials.nats, subscribers=passwords
    )
    tell(
        layout,
        {
            each.name: told(each, nats_url=nats_url(port), password=password)
            for each, password in passwords.items()
        },
    )
    config = private_file(root / "nats.conf", text, uid)
    return Process(
        name="nats",
        argv=(str(nats_server.binary()), "--config", str(config)),
        log=layout.log("nats"),
        uid=uid,
        writable=(root,),
        death_signal=signal.SIGTERM,  # it flushes its streams and ends
        is_up=lambda: nats_server.is_up(port),
    )


def tell(layout: Layout, subscribers: Mapping[str, str]) -> None:
    folder = private_folder(layout.subscribers, os.geteuid())
    for old in folder.iterdir():
        if old.stem not in subscribers:
            old.unlink()
    for name, text in subscribers.items():
        private_file(folder / f"{name}.json", text, os.geteuid())


def nats_url(port: int) -> str:
    return f"nats://{ports.HOST}:{port}"
