"""Settings of the gateway. LLM_BASE_URL and OLLAMA_HOST: see urls.py for the accepted forms."""

from typing import Annotated, Literal

from pydantic import StringConstraints
from wfhub_common.settings import BrokerSettings

from wfhub_llm_gateway import urls


class GatewaySettings(BrokerSettings):
    http_listen: str = "127.0.0.1:8090"
    database_url: str = "postgresql://wfhub_gateway@127.0.0.1:5432/wfhub"

    llm_provider: Literal["openai", "ollama", "dmr", "replay"] = "openai"
    llm_base_url: str = ""
    ollama_host: str = ""  # with LLM_PROVIDER=ollama, when LLM_BASE_URL is not set
    openai_api_key: str = ""
    llm_model: str = ""  # instead of a model that is missing or named "default"
    llm_cassette: str = ""  # the file to replay
    llm_record: str = ""  # the file to append exchanges to, as a cassette

    # Where bodies of exchanges go; "" keeps them in the spool.
    proofs_url: Annotated[str, StringConstraints(pattern=r"^(https?://.+)?$")] = ""
    service_token: str = ""
    gateway_spool: str = ""  # "": a temporary folder, whose bodies are lost with the process

    upstream_first_byte_s: float = 600.0  # a long prompt on a small machine takes minutes
    upstream_idle_s: float = 120.0

    def base_url(self) -> str:
        """Raises: SystemExit that names the variable."""
        try:
            if self.llm_base_url:
                return urls.base(self.llm_base_url)
            if self.llm_provider == "ollama":
                return urls.ollama(self.ollama_host)
        except ValueError as e:
            name = "LLM_BASE_URL" if self.llm_base_url else "OLLAMA_HOST"
            raise SystemExit(f"bad settings: {name}: {e}") from e
        return urls.DMR_BASE_URL if self.llm_provider == "dmr" else urls.OPENAI_BASE_URL
