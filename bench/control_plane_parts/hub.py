"""The product under test: its database, its NATS with its users, its real scheduler processes.

The far side (far_side.py) stands for runners and, where asked, for proof-store and gateway.
"""

import dataclasses
import json
import secrets
from pathlib import Path
from typing import Any

from wfhub_common import httpauth, ids, signing, subjects
from wfhub_local import ports

from control_plane_parts.processes import Child, Family, python, run, until
from control_plane_parts.servers import Nats, Postgres

PROJECT = "bench"
RUNNING_LIMIT = 100_000
TEMPLATE = "wfhub_bench_template"


@dataclasses.dataclass
class Far:
    """What a load or far-side process is told, as JSON on its command line."""

    nats_url: str
    passwords: dict[str, str]
    key_file: str

    def to_json(self, **more: Any) -> str:
        return json.dumps({**dataclasses.asdict(self), **more})


class Hub:
    """One deployment of the product on a database of its own."""

    def __init__(
        self,
        family: Family,
        pg: Postgres,
        name: str,
        *,
        schedulers: int = 1,
        runners: int = 1,
        proof_store: bool = False,
        api: bool = False,
    ) -> None:
        self.family, self.pg, self.name = family, pg, name
        self.folder = family.folder / name
        self.folder.mkdir()
        self.runner_ids = [str(ids.new_runner_id()) for _ in range(runners)]
        services = (subjects.API, subjects.SCHEDULER, subjects.PROOF_STORE, subjects.GATEWAY)
        self.passwords = {user: secrets.token_hex(8) for user in (*services, *self.runner_ids)}
        self.key_file = self.folder / "signing.key"
        signing.load_or_create_private_key(self.key_file)
        ensure_template(pg)
        self.url = pg.create(name, TEMPLATE)
        self.nats = Nats(family, f"{name}-nats", users=self.passwords)
        self.far = Far(self.nats.url, self.passwords, str(self.key_file))
        self.token = httpauth.new_token(httpauth.API_TOKEN_PREFIX)
        self.schedulers = [self._scheduler(number) for number in range(schedulers)]
        self.others: list[Child] = []  # proof-store and API
        if proof_store:
            self.others.append(self._proof_store())
        if api:
            self.others.append(self._api())

    def scheduler_env(self) -> dict[str, str]:
        return {
            **self._nats_env(subjects.SCHEDULER),
            "DATABASE_URL": self.url,
            "PROOF_PUBLIC_KEY_FILE": str(self.key_file) + ".pub",
            "LOG_LEVEL": "WARNING",
        }

    def _scheduler(self, number: int) -> Child:
        argv = python("wfhub_scheduler.main")
        name = f"{self.name}-scheduler-{number}"
        return self.family.start(name, argv, env=self.scheduler_env())

    def _proof_store(self) -> Child:
        self.proofs_root = self.folder / "proofs"
        self.proofs_root.mkdir()
        accepted = self.folder / "accepted.json"
        self.service_token = httpauth.new_token(httpauth.SERVICE_TOKEN_PREFIX)
        accepted.write_text(json.dumps({"runner": httpauth.token_sha256(self.service_token)}))
        self.proofs_port = ports.free_port()
        env = {
            **self._nats_env(subjects.PROOF_STORE),
            "DATABASE_URL": self.url,
            "HTTP_LISTEN": f"{ports.HOST}:{self.proofs_port}",
            "PROOFS_ROOT": str(self.proofs_root),
            "SIGNING_KEY_FILE": str(self.key_file),
            "SERVICE_TOKENS_FILE": str(accepted),
            "LOG_LEVEL": "WARNING",
        }
        run_migration("wfhub_proof_store", self.url)
        return self.family.start(
            f"{self.name}-proof-store", python("wfhub_proof_store.main"), env=env
        )

    def _api(self) -> Child:
        self.api_port = ports.free_port()
        env = {
            **self._nats_env(subjects.API),
            "DATABASE_URL": self.url,
            "HTTP_LISTEN": f"{ports.HOST}:{self.api_port}",
            "ADMIN_TOKEN_SHA256": httpauth.token_sha256(self.token),
            "LOG_LEVEL": "WARNING",
        }
        run_migration("wfhub_api", self.url)
        child = self.family.start(f"{self.name}-api", python("wfhub_api.main"), env=env)
        until(lambda: ports.answers(ports.HOST, self.api_port), "the API listens", child=child)
        return child

    def _nats_env(self, user: str) -> dict[str, str]:
        return {
            "NATS_URL": self.nats.url,
            "NATS_USER": user,
            "NATS_PASSWORD": self.passwords[user],
        }

    def children(self) -> list[Child]:
        return [*self.schedulers, *self.others, self.nats.child]

    def close(self) -> None:
        for child in [*self.schedulers, *self.others, self.nats.child]:
            self.family.end(child)
        self.pg.drop(self.name)


def ensure_template(pg: Postgres) -> None:
    """A migrated database with the bench's project, copied for each measurement."""
    if pg.value("SELECT count(*) FROM pg_database WHERE datname = $1", TEMPLATE):
        return
    url = pg.create(TEMPLATE)
    run_migration("wfhub_scheduler", url)
    pg.execute(
        "INSERT INTO sched.project (project_id, name, running_limit, weight)"
        f" VALUES ('{ids.new_project_id()}', '{PROJECT}', {RUNNING_LIMIT}, 1)",
        database=TEMPLATE,
    )


def run_migration(package: str, url: str) -> None:
    run(["env", f"DATABASE_URL={url}", *python(f"{package}.main", "migrate")])


def module(name: str, spec: str) -> list[str]:
    return python(f"control_plane_parts.{name}", spec)


def bench_env() -> dict[str, str]:
    """So that children find control_plane_parts (and the product, where PYTHONPATH names it)."""
    import os

    here = str(Path(__file__).parent.parent)
    return {"PYTHONPATH": ":".join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))}
