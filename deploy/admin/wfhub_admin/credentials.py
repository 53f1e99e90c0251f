"""Every secret of an installation, generated once, and what each process gets to read of them.

`Credentials` is the truth (one JSON document, its keeper's own); `handed` is one service's share. A
value never stands in an argv or an environment: it is a file, named by `X_FILE`.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from wfhub_common import httpauth, ids, subjects
from wfhub_common.httpauth import new_token, token_sha256

from wfhub_admin.files import private_file
from wfhub_admin.rest import READER
from wfhub_admin.subscribers import Subscriber

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
    subscribers: dict[str, str] = field(default_factory=dict, repr=False)  # name → NATS password
    reader_secret: str = field(default="", repr=False)  # signs the token of wfhub_admin.rest

    def accepted(self) -> str:
        """What a service's SERVICE_TOKENS_FILE holds."""
        return json.dumps({sender: token_sha256(token) for sender, token in self.tokens.items()})

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Credentials":
        found = json.loads(text)
        return Credentials(**{**found, "runner_ids": tuple(found["runner_ids"])})


def new() -> Credentials:
    return Credentials(
        admin_token=new_token(httpauth.API_TOKEN_PREFIX), nats={}, database={}, tokens={}
    )


def with_identities(
    have: Credentials, runners: int, subscribers: Collection[Subscriber] = ()
) -> Credentials:
    """With identities for at least `runners` runners and each of `subscribers`, and whatever an
    older version did not have. Runner ids stay: work in flight is theirs. A password too: one who
    is a subscriber again has the one it had."""
    missing = max(0, runners - len(have.runner_ids))
    runner_ids = (*have.runner_ids, *(ids.new_runner_id() for _ in range(missing)))
    senders = (*SENDERS, *runner_ids)
    nats = {s: have.nats.get(s) or new_token(PASSWORD_PREFIX) for s in senders}
    prefix = httpauth.SERVICE_TOKEN_PREFIX
    tokens = {s: have.tokens.get(s) or new_token(prefix) for s in senders}
    roles = (DATABASE_ADMIN, *DATABASE_ROLES.values(), READER)
    return replace(
        have,
        nats=nats,
        database={role: have.database.get(role) or new_token(PASSWORD_PREFIX) for role in roles},
        tokens=tokens,
        runner_ids=runner_ids,
        subscribers=have.subscribers
        | {
            each.name: new_token(PASSWORD_PREFIX)
            for each in subscribers
            if each.name not in have.subscribers
        },
        reader_secret=have.reader_secret or new_token(PASSWORD_PREFIX),
    )


def grown_from(have: Credentials, was: Credentials) -> bool:
    """Is `have` the same installation's: `was`, or what `with_identities` made of it since?"""
    pairs = (
        (was.nats, have.nats),
        (was.database, have.database),
        (was.tokens, have.tokens),
        (was.subscribers, have.subscribers),
    )
    return (
        have.admin_token == was.admin_token
        and have.runner_ids[: len(was.runner_ids)] == was.runner_ids
        and was.reader_secret in {"", have.reader_secret}
        and all(earlier.items() <= later.items() for earlier, later in pairs)
    )


def handed(
    have: Credentials,
    service: str,
    *,
    sender: str,
    nats_url: str,
    nats_users: bool = True,
    database_url: str = "",
    sealing_keys: str = "",
) -> dict[str, str]:
    """What one service reads: setting → value. `nats_users` is False at an external broker, which
    has the users that its operator gave it. `sealing_keys` are the API's alone."""
    secrets = {"NATS_URL": nats_url, "SERVICE_TOKEN": have.tokens[sender]}
    if nats_users:
        secrets["NATS_PASSWORD"] = have.nats[sender]
    if database_url:
        secrets["DATABASE_URL"] = database_url
    if service == subjects.PROOF_STORE:
        secrets["SERVICE_TOKENS_FILE"] = have.accepted()
    if service == subjects.API:
        secrets["ADMIN_TOKEN_SHA256"] = token_sha256(have.admin_token)
        secrets["SEALING_KEYS"] = sealing_keys
    return secrets


def file_name(setting: str) -> str:
    return setting.lower().replace("_", "-")


def hand_over(folder: Path, uid: int, secrets: Mapping[str, str]) -> dict[str, str]:
    """Write each value as a file that only `uid` reads. Returns the environment that names them:
    {"NATS_PASSWORD": …} becomes {"NATS_PASSWORD_FILE": path}."""
    environment = {}
    for name, value in secrets.items():
        file = private_file(folder / file_name(name), value, uid)
        environment[name if name.endswith("_FILE") else f"{name}_FILE"] = str(file)
    return environment
