"""Settings of the proof-store, read once from the environment.

Units: `*_s` seconds, `*_bytes_max` bytes.
"""

from pydantic import Field
from wfhub_common import limits
from wfhub_common.settings import BrokerSettings, Settings


class ProofStoreSettings(BrokerSettings):
    http_listen: str = "127.0.0.1:8081"  # host:port, or fd:N from a supervisor
    database_url: str
    proofs_root: str = Field(min_length=1)  # replicas share one folder
    signing_key_file: str = Field(min_length=1)  # created 0600 when missing, `.pub` beside it
    service_tokens_file: str  # JSON: {sender: sha256 hex of its token}
    blob_bytes_max: int = Field(limits.BLOB_BYTES_MAX, ge=1)
    # Runners upload before they announce: a blob this late was lost, and the runner has to know.
    blob_wait_s: float = Field(600.0, gt=0)


class MigrateSettings(Settings):
    database_url: str
