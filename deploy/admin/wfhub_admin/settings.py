"""What `wfhub-admin` reads from its environment."""

from dataclasses import replace

from pydantic import Field, field_validator
from wfhub_common import privileges
from wfhub_common.settings import Settings

from wfhub_admin.outlay import CLIENT, KEEPER, NATS, POSTGRES, POSTGREST, RUNNERS, Where
from wfhub_admin.subscribers import Subscriber, parsed

RUNNERS_MAX = 256
SEALING_KEYS_MAX = 1000
_SERVICE_UIDS = privileges.SERVICE_UIDS
POSTGREST_UID = 64008


class ProvisionSettings(Settings):
    """Of `wfhub-admin secrets`."""

    runners_max: int = Field(8, ge=1, le=RUNNERS_MAX)  # identities, not processes
    runner_uid: int = Field(_SERVICE_UIDS["runner"], ge=1)
    nats_url: str = f"nats://{NATS}:4222"
    nats_users: bool = True  # no: an external broker, without the users that we would make
    database_url: str = Field("", repr=False)  # of an external server
    openai_api_key: str = Field("", repr=False)
    backup_passphrase: str = Field("", repr=False)
    secret_prefix: str = "workflow-hub"  # in a cluster: of the Secrets' names, the release's name
    namespace: str = ""
    kubernetes_service_host: str = ""  # set by the kubelet
    kubernetes_service_port: int = 443
    sealing_key: int = Field(1, ge=1, le=SEALING_KEYS_MAX)  # the newest; one more is a new one
    nats_servers: int = Field(1, ge=1, le=9)
    event_subscribers: str = ""  # subscribers.py has the form

    @field_validator("event_subscribers")
    @classmethod
    def _subscribers(cls, value: str) -> str:
        parsed(value)
        return value

    @property
    def subscribers(self) -> tuple[Subscriber, ...]:
        return parsed(self.event_subscribers)

    def where(self) -> Where:
        return Where(
            nats_url=self.nats_url,
            nats_users=self.nats_users,
            database_url=self.database_url,
            subscribers=self.subscribers,
        )

    def where_in_cluster(self) -> Where:
        prefix, servers = self.secret_prefix, range(self.nats_servers)
        routes = tuple(f"nats://{prefix}-nats-{n}.{prefix}-nats-peers:6222" for n in servers)
        return replace(
            self.where(),
            # As it is known from other namespaces too: KEDA's operator connects from its own.
            postgres_host=f"{prefix}-{POSTGRES}"
            + (f".{self.namespace}.svc" if self.namespace else ""),
            nats_routes=routes if self.nats_servers > 1 else (),
            runner_names=tuple(f"{prefix}-agent-runner-{n}" for n in range(RUNNERS_MAX)),
        )

    def provider_keys(self) -> dict[str, str]:
        return {"OPENAI_API_KEY": self.openai_api_key}  # an empty file is no key

    def uids(self) -> dict[str, int]:
        return {
            **{name: _SERVICE_UIDS[name] for name in _SERVICE_UIDS if name != "runner"},
            RUNNERS: self.runner_uid,
            CLIENT: self.runner_uid,
            KEEPER: _SERVICE_UIDS[POSTGRES],
            POSTGREST: POSTGREST_UID,
        }
