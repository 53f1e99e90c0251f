"""Every secret of a stack, generated once, and what each process gets to read of them.

One file is the truth (credentials.json, the stack's own); each service's secrets folder is
written from it at each start, owned by that service. A value never stands in an argv or an
environment.
Raises: SystemExit when the file is lost but a database that knows the passwords is there.
"""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from wfhub_common import httpauth, ids, subjects
from wfhub_common.httpauth import new_token, token_sha256

from wfhub_local.layout import Layout, private_file

PASSWORD_PREFIX = "wsp_"
SENDERS = (subjects.API, subjects.SCHEDULER, subjects.PROOF_STORE, subjects.GATEWAY)
DATABASE_ADMIN = "postgres"
DATABASE_ROLES = {
    subjects.SCHEDULER: "wfhub_scheduler",
    subjects.API: "wfhub_api",
    subjects.PROOF_STORE: "wfhub_proofs",
    subjects.GATEWAY: "wfhub_gateway",
}


@dataclass(frozen=True)
class Credentials:
    admin_token: str = field(repr=False)
    nats: dict[str, str] = field(repr=False)  # user (a sender) → password
    database: dict[str, str] = field(repr=False)  # role → password
    tokens: dict[str, str] = field(repr=False)  # sender → bearer at services
    runner_ids: tuple[str, ...] = ()

    def accepted(self) -> str:
        """What a service's SERVICE_TOKENS_FILE holds."""
        return json.dumps({sender: token_sha256(token) for sender, token in self.tokens.items()})


def load_or_create(layout: Layout, runners: int) -> Credentials:
    """The stack's secrets, with identities for at least `runners` runners."""
    if layout.credentials.exists():
        found = json.loads(layout.credentials.read_text())
        before = Credentials(**{**found, "runner_ids": tuple(found["runner_ids"])})
    elif (layout.postgres / "data").exists():
        raise SystemExit(
            f"{layout.credentials} is lost, but {layout.postgres} has a database that needs the"
            " passwords in it; put it back, or remove that folder and lose its tasks"
        )
    else:
        roles = (DATABASE_ADMIN, *DATABASE_ROLES.values())
        before = Credentials(
            admin_token=new_token(httpauth.API_TOKEN_PREFIX),
            nats={},
            database={role: new_token(PASSWORD_PREFIX) for role in roles},
            tokens={},
        )
    after = _with_identities(before, runners)
    if after != before:
        private_file(layout.credentials, json.dumps(asdict(after)), os.geteuid())
    private_file(layout.admin_token, after.admin_token + "\n", os.geteuid())
    return after


def _with_identities(have: Credentials, runners: int) -> Credentials:
    """Runner ids stay: work in flight belongs to them."""
    missing = max(0, runners - len(have.runner_ids))
    runner_ids = (*have.runner_ids, *(ids.new_runner_id() for _ in range(missing)))
    senders = (*SENDERS, *runner_ids)
    nats = {s: have.nats.get(s) or new_token(PASSWORD_PREFIX) for s in senders}
    prefix = httpauth.SERVICE_TOKEN_PREFIX
    tokens = {s: have.tokens.get(s) or new_token(prefix) for s in senders}
    return replace(have, nats=nats, tokens=tokens, runner_ids=runner_ids)


def hand_over(folder: Path, uid: int, secrets: dict[str, str]) -> dict[str, str]:
    """Write each value as a file that only `uid` reads. Returns the environment that names them:
    {"NATS_PASSWORD": …} becomes {"NATS_PASSWORD_FILE": path}."""
    environment = {}
    for name, value in secrets.items():
        file = private_file(folder / name.lower().replace("_", "-"), value, uid)
        environment[name if name.endswith("_FILE") else f"{name}_FILE"] = str(file)
    return environment
