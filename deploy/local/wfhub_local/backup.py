"""`wfhub backup` and `wfhub restore`: the local stack's parts of wfhub_admin.backup.

A backup is taken of a stack that runs, or of one that does not (its database is started for it). A
restore fills a data directory that has nothing yet; `wfhub up --data` on it is all that follows.
Raises: SystemExit.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wfhub_admin import archive, backup
from wfhub_admin import database as provision
from wfhub_admin.archive import Contents
from wfhub_admin.credentials import Credentials
from wfhub_admin.database import Plan
from wfhub_admin.files import private_file, private_folder
from wfhub_admin.outlay import Truth

from wfhub_local import ports, postgres, servers, state
from wfhub_local.layout import Layout
from wfhub_local.stack import SERVERS, SERVERS_S_MAX, Say
from wfhub_local.supervisor import Supervisor

PORT_LINE = 3  # of postmaster.pid


def take(layout: Layout, path: Path, *, passphrase: str, database_url: str, say: Say) -> Contents:
    archive.insist_on(passphrase)  # before a database is started for it
    truth = truth_of(layout)
    running = state.wait_ready(layout) is not None
    with database(layout, truth.credentials, database_url, say, running=running) as plan:
        say("copying the database and the blobs")
        return backup.backup(
            path, plan=plan, blobs=layout.proofs, truth=truth, passphrase=passphrase
        )


def bring_back(
    layout: Layout, path: Path, *, passphrase: str, database_url: str, say: Say
) -> Contents:
    if layout.credentials.exists() or postgres.is_made(layout.postgres):
        raise SystemExit(
            f"{layout.data} has a stack already, or the rest of a restore that was broken off: name"
            " an empty folder with --data"
        )
    say("checking the backup")
    contents = archive.check(path, passphrase)
    layout.make()
    with ExitStack() as at_end:
        try:
            at_end.callback(os.close, state.acquire(layout))
        except state.Held as e:
            raise SystemExit(f"{layout.data} is in use by pid {e.pid}") from e
        say(f"restoring {contents.blobs} blobs and the database")
        # The credentials last: without them nothing here takes itself for a stack.
        credentials = contents.truth.credentials
        uid = servers.uid_of("proof-store")
        blobs = private_folder(layout.proofs, uid)
        with database(layout, credentials, database_url, say, running=False) as plan:
            backup.restore(path, contents, plan=plan, blobs=blobs, uid=uid)
        key = private_folder(layout.signing, uid) / layout.signing_key.name
        private_file(key, contents.truth.signing_key, uid)
        private_file(key.with_name(f"{key.name}.pub"), contents.truth.public_key, uid)
        if contents.truth.sealing_keys:
            private_file(layout.sealing_keys, contents.truth.sealing_keys, os.geteuid())
        private_file(layout.credentials, credentials.to_json(), os.geteuid())
    return contents


def truth_of(layout: Layout) -> Truth:
    try:
        credentials = Credentials.from_json(layout.credentials.read_text())
        key = layout.signing_key.read_text()
        keys = layout.sealing_keys
        sealing_keys = keys.read_text() if keys.exists() else ""
        return Truth(credentials, key, layout.public_key.read_text(), sealing_keys)
    except OSError as e:
        raise SystemExit(
            f"cannot read {e.filename}: {e.strerror}: is --data the folder of a stack, and are you"
            " who started it?"
        ) from e


@contextmanager
def database(
    layout: Layout, credentials: Credentials, database_url: str, say: Say, *, running: bool
) -> Iterator[Plan]:
    """Of the stack that runs, or started for as long as it is needed."""
    if database_url:
        ports.check_reachable(database_url, default_port=5432, option="--database-url")
        yield provision.external(database_url)
    elif running:
        lines = (layout.postgres / "data" / "postmaster.pid").read_text().split("\n")
        yield provision.own(credentials, ports.HOST, int(lines[PORT_LINE]))
    else:
        supervisor = Supervisor(say)
        with supervisor.signals():
            try:
                port = ports.free_port()
                uid = servers.uid_of("postgres")
                process = servers.postgres_process(layout, credentials, uid=uid, port=port, say=say)
                supervisor.start(process, group=SERVERS)
                supervisor.wait_up(timeout_s=SERVERS_S_MAX)
                yield provision.own(credentials, ports.HOST, port)
            finally:
                supervisor.stop()
