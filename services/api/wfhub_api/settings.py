"""Settings of the API service, read once from the environment.

Units: `*_s` seconds, `*_bytes` bytes. An unset ADMIN_TOKEN_SHA256 means that only tokens made
with `wfhub-api token new` open the API.
"""

from pydantic import Field
from wfhub_common.settings import BrokerSettings


class ApiSettings(BrokerSettings):
    http_listen: str = "127.0.0.1:8080"  # host:port, or fd:N from a supervisor
    database_url: str
    proofs_url: str = "http://127.0.0.1:8081"
    service_token: str = ""  # our bearer at the proof-store
    admin_token_sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")
