"""Where the service is and who asks: WFHUB_URL, WFHUB_TOKEN(_FILE), WFHUB_PROOF_KEY.

Read once, at the CLI's edge. No pydantic here: the CLI starts quickly.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wfhub_client.errors import Usage


@dataclass(frozen=True)
class ClientSettings:
    url: str  # "": none was given
    token: str
    proof_key: str  # a PEM file, "" for none
    config_dir: Path

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> "ClientSettings":
        """Raises: Usage."""
        token = env.get("WFHUB_TOKEN", "")
        token_file = env.get("WFHUB_TOKEN_FILE", "")
        if not token and token_file:
            try:
                token = Path(token_file).read_text().strip()
            except OSError as e:
                raise Usage(f"WFHUB_TOKEN_FILE: cannot read {token_file}: {e.strerror}") from e
        url = env.get("WFHUB_URL", "")
        if url and not url.startswith(("http://", "https://")):
            raise Usage(f"WFHUB_URL must begin with http:// or https://, not {url!r}")
        home = Path(env.get("HOME") or Path.home())
        config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
        return cls(url, token, env.get("WFHUB_PROOF_KEY", ""), config / "wfhub")


def of_process() -> ClientSettings:
    return ClientSettings.from_env(os.environ)
