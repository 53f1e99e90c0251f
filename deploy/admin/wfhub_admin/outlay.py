"""Who reads what: every file of an installation's secrets, by its reader. Pure.

An Outlay maps a reader (a service, a server, `runners`, `client`) to its files. Whoever writes it
down (`folders`, `cluster`) gives each reader its own and nothing else.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wfhub_common import subjects

from wfhub_admin import broker, database, rest
from wfhub_admin.credentials import DATABASE_ADMIN, Credentials, file_name, handed
from wfhub_admin.subscribers import Subscriber, told

POSTGRES, NATS, RUNNERS, CLIENT, KEEPER = "postgres", "nats", "runners", "client", "keeper"
POSTGREST = "postgrest"
READERS = (*database.SCHEMAS, POSTGRES, NATS, RUNNERS, CLIENT, KEEPER, POSTGREST)
NATS_PORT, NATS_MONITOR_PORT = 4222, 8222
PUBLIC_KEY, SIGNING_KEY = "proof-key.pub", "signing-key"

Outlay = dict[str, dict[str, str]]  # reader → file name → content


@dataclass(frozen=True)
class Truth:
    """What is made once and kept: lose it, and the installation has to be made anew."""

    credentials: Credentials
    signing_key: str = field(repr=False)  # PEM
    public_key: str
    # JSON (wfhub_common.sealed). Not one of the credentials: the version before refuses those with
    # more than it knows, and its code may come back. Empty: of that version.
    sealing_keys: str = field(default="", repr=False)


@dataclass(frozen=True)
class Where:
    nats_url: str
    nats_users: bool = True  # False: an external broker
    postgres_host: str = POSTGRES
    postgres_port: int = 5432
    database_url: str = field(default="", repr=False)  # of an external server
    nats_store: Path = Path("/var/lib/nats")
    nats_routes: tuple[str, ...] = ()  # of a cluster, nats://host:port each
    subscribers: tuple[Subscriber, ...] = ()
    runner_names: tuple[str, ...] = ()  # by number; default: runner-1, runner-2, …


def plan(credentials: Credentials, where: Where) -> database.Plan:
    if where.database_url:
        return database.external(where.database_url)
    return database.own(credentials, where.postgres_host, where.postgres_port)


def outlay(truth: Truth, where: Where, *, provider_keys: Mapping[str, str]) -> Outlay:
    """`provider_keys`: settings of the gateway such as OPENAI_API_KEY; it alone reads them."""
    have = truth.credentials
    made: Outlay = {service: _service(truth, where, service) for service in database.SCHEMAS}
    made[subjects.SCHEDULER][PUBLIC_KEY] = truth.public_key
    made[subjects.PROOF_STORE][SIGNING_KEY] = truth.signing_key
    made[subjects.PROOF_STORE][f"{SIGNING_KEY}.pub"] = truth.public_key
    made[subjects.GATEWAY] |= {file_name(name): key for name, key in provider_keys.items()}
    made[POSTGRES] = {"password": have.database[DATABASE_ADMIN]}
    made[NATS] = {"nats.conf": _nats(have, where)}
    names = where.runner_names or tuple(f"runner-{n + 1}" for n in range(len(have.runner_ids)))
    made[RUNNERS] = {
        f"{name}.json": _identity(have, where, runner_id, name)
        for name, runner_id in zip(names, have.runner_ids, strict=False)
    }
    made[CLIENT] = {"admin-token": have.admin_token + "\n", PUBLIC_KEY: truth.public_key}
    made[CLIENT]["reader-token"] = rest.token(have.reader_secret) + "\n"
    made[CLIENT] |= {
        f"subscriber-{each.name}.json": told(
            each, nats_url=where.nats_url, password=have.subscribers[each.name]
        )
        for each in where.subscribers
    }
    made[POSTGREST] = {} if where.database_url else _reader(have, where)
    made[KEEPER] = {"plan.json": plan(have, where).to_json()}
    return made


def _service(truth: Truth, where: Where, service: str) -> dict[str, str]:
    have = truth.credentials
    url = where.database_url or database.service_url(
        have, service, where.postgres_host, where.postgres_port
    )
    secrets = handed(
        have,
        service,
        sender=service,
        nats_url=where.nats_url,
        nats_users=where.nats_users,
        database_url=url,
        sealing_keys=truth.sealing_keys,
    )
    return {file_name(name): value for name, value in secrets.items()}


def _reader(have: Credentials, where: Where) -> dict[str, str]:
    host, port, password = where.postgres_host, where.postgres_port, have.database[rest.READER]
    return {
        "db-uri": f"{database.server_url(rest.READER, password, host, port)}/{database.DATABASE}",
        "jwt-secret": have.reader_secret,
    }


def _identity(have: Credentials, where: Where, runner_id: str, name: str) -> str:
    secrets = handed(
        have,
        RUNNERS,
        sender=runner_id,
        nats_url=where.nats_url,
        nats_users=where.nats_users,
    )
    return json.dumps({"runner_id": runner_id, "name": name, "secrets": secrets})


def _nats(have: Credentials, where: Where) -> str:
    more = {}
    if where.nats_routes:
        # Each server of the cluster is told its name as an argument: one file does for all.
        listen = "0.0.0.0:6222"
        more["cluster"] = {"name": "wfhub", "listen": listen, "routes": list(where.nats_routes)}
    return broker.configuration(
        listen=f"0.0.0.0:{NATS_PORT}",
        store=where.nats_store,
        passwords=have.nats,
        subscribers={each: have.subscribers[each.name] for each in where.subscribers},
        monitor=f"127.0.0.1:{NATS_MONITOR_PORT}",
        sync_always=True,
        server_name="wfhub",
        more=more,
    )
