"""Where things lie below the data directory.

lock, users.lock     held by the running stack; shared by each `wfhub run` that uses it
state.json           url, pid and token file of the running stack (no secret)
asked.json           what the running stack was asked for, secrets as digests; 0600
credentials.json     every generated secret; the stack's own, 0600
sealing-keys.json    keys that the API seals secrets of the database with; so too
proof-key.pub        what proofs are checked with
admin-token          the API token of the person who started it, 0600
subscribers/         one file for each system that hears events: where, as whom, what
secrets/<service>/   what that service reads, owned by it, written anew at each start
logs/<process>.log   what each process wrote
agents/              programs of agents, if any are installed: read by every sandbox
postgres/ nats/ proofs/ signing/ <runner>/   each service's own data, 0700, owned by its uid
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    data: Path

    @property
    def name(self) -> str:
        """Stable for this data directory; for files that others keep about the stack."""
        return "local-" + hashlib.sha256(str(self.data.absolute()).encode()).hexdigest()[:12]

    @property
    def lock(self) -> Path:
        return self.data / "lock"

    @property
    def users_lock(self) -> Path:
        return self.data / "users.lock"

    @property
    def state(self) -> Path:
        return self.data / "state.json"

    @property
    def asked(self) -> Path:
        return self.data / "asked.json"

    @property
    def credentials(self) -> Path:
        return self.data / "credentials.json"

    @property
    def sealing_keys(self) -> Path:
        return self.data / "sealing-keys.json"

    @property
    def admin_token(self) -> Path:
        return self.data / "admin-token"

    @property
    def subscribers(self) -> Path:
        return self.data / "subscribers"

    @property
    def agents(self) -> Path:
        return self.data / "agents"

    @property
    def postgres(self) -> Path:
        return self.data / "postgres"

    @property
    def nats(self) -> Path:
        return self.data / "nats"

    @property
    def proofs(self) -> Path:
        return self.data / "proofs"

    @property
    def signing(self) -> Path:
        return self.data / "signing"

    @property
    def signing_key(self) -> Path:
        return self.signing / "key.pem"

    @property
    def public_key(self) -> Path:
        """The proof-store's public key for everyone; the private one's folder is closed."""
        return self.data / "proof-key.pub"

    def home(self, process: str) -> Path:
        return self.data / process

    def secrets(self, process: str) -> Path:
        return self.data / "secrets" / process

    def log(self, process: str) -> Path:
        return self.data / "logs" / f"{process}.log"

    def make(self) -> None:
        """Folders that services pass through but may not list; one that is there already keeps
        its mode, since it may be anybody's. Raises: SystemExit."""
        try:
            self.data.mkdir(parents=True, exist_ok=True, mode=0o755)
            (self.data / "secrets").mkdir(exist_ok=True, mode=0o711)
            (self.data / "logs").mkdir(exist_ok=True, mode=0o700)
        except OSError as e:
            raise SystemExit(
                f"cannot use {self.data} as data directory: {e.strerror}; choose another with"
                " --data or WFHUB_DATA"
            ) from e
