"""Settings of the API service, read once from the environment.

Units: `*_s` seconds, `*_bytes` bytes. An unset ADMIN_TOKEN_SHA256 means that only tokens made
with `wfhub-api token new` open the API.
"""

import ssl

from pydantic import Field, FilePath, field_validator, model_validator
from wfhub_common import egress, sealed
from wfhub_common.settings import BrokerSettings

from wfhub_api.webhooks.targets import Rules


class ApiSettings(BrokerSettings):
    http_listen: str = "127.0.0.1:8080"  # host:port, or fd:N from a supervisor
    database_url: str
    proofs_url: str = "http://127.0.0.1:8081"
    service_token: str = ""  # our bearer at the proof-store
    admin_token_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    sealing_keys: str = Field("", repr=False)  # JSON (wfhub_common.sealed); a file is better kept
    webhooks_enabled: bool = True  # false: none is made, and nothing is sent
    webhook_private_hosts: str = ""  # ','-separated; they may have private addresses
    webhook_http_hosts: str = ""  # ','-separated; http:// is good enough there
    webhook_ca_file: FilePath | None = None  # PEM: authorities besides the system's
    webhook_timeout_s: float = Field(15.0, gt=0, le=60)  # a whole request: what the standard says
    webhook_lease_s: float = Field(45.0, gt=0)  # a replica that died is replaced after it
    webhook_retry_base_s: float = Field(1.0, gt=0)  # before the second try; doubles

    @field_validator("sealing_keys")
    @classmethod
    def _keys(cls, value: str) -> str:
        try:
            sealed.keys(value)
        except ValueError as e:
            raise ValueError(f"{e}: give the file that `wfhub-admin secrets` writes") from None
        return value

    @field_validator("webhook_private_hosts", "webhook_http_hosts")
    @classmethod
    def _hosts(cls, value: str) -> str:
        return ",".join(egress.host(part) for part in egress.listed(value))

    @field_validator("webhook_ca_file")
    @classmethod
    def _certificates(cls, value: FilePath | None) -> FilePath | None:
        if value is not None:
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
            except OSError as e:  # ssl's own among them
                raise ValueError(f"{value} is no certificate in PEM: {e}") from e
        return value

    @model_validator(mode="after")
    def _lease_outlasts_requests(self) -> "ApiSettings":
        if self.webhook_lease_s < 2 * self.webhook_timeout_s:
            raise ValueError("WEBHOOK_LEASE_S has to be twice WEBHOOK_TIMEOUT_S or more")
        return self

    def webhook_rules(self) -> Rules:
        private, http = self.webhook_private_hosts, self.webhook_http_hosts
        return Rules(frozenset(egress.listed(private)), frozenset(egress.listed(http)))
