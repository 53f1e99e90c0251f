"""Settings of the gateway. LLM_BASE_URL and its like: see urls.py for the accepted forms."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator
from wfhub_common.model_paths import Format
from wfhub_common.settings import BrokerSettings

from wfhub_llm_gateway import dialects, urls
from wfhub_llm_gateway.dialects import Dialect
from wfhub_llm_gateway.usage import UNSEEN_TOKENS_PER_S

Positive = Annotated[float, Field(gt=0)]


class GatewaySettings(BrokerSettings):
    http_listen: str = "127.0.0.1:8090"
    database_url: str = "postgresql://wfhub_gateway@127.0.0.1:5432/wfhub"

    llm_provider: Literal["openai", "anthropic", "gemini", "ollama", "dmr", "replay"] = "openai"
    llm_base_url: str = ""
    # When LLM_BASE_URL is not set, each for its provider:
    openai_base_url: str = ""
    anthropic_base_url: str = ""
    gemini_base_url: str = ""
    ollama_host: str = ""
    openai_api_key: str = ""  # of any OpenAI-compatible server
    anthropic_api_key: str = ""
    gemini_api_key: str = ""
    google_api_key: str = ""  # Gemini's other name for it
    # What an OpenAI-compatible server speaks: chat, responses, messages. "": chat, and of OpenAI
    # itself responses too. What it does not speak is translated.
    llm_formats: str = ""
    llm_model: str = ""  # instead of a model that is missing or named "default"
    llm_config: str = ""  # a file of routes; then the provider's variables do not count
    llm_prices: str = ""  # a file that overrides budgets/prices.yaml
    llm_cassette: str = ""  # the file that LLM_PROVIDER=replay replays
    llm_cassettes: str = ""  # a folder for cassettes of tasks and projects, see tapes.py
    llm_record: str = ""  # the file to append exchanges to, as a cassette

    # Where bodies of exchanges go; "" keeps them in the spool.
    proofs_url: Annotated[str, StringConstraints(pattern=r"^(https?://.+)?$")] = ""
    service_token: str = ""
    gateway_spool: str = ""  # "": a temporary folder, whose bodies are lost with the process

    # How long a dead gateway's reservations are held before another one charges them.
    gateway_lease_s: Positive = 30.0
    upstream_first_byte_s: Positive = 600.0  # a long prompt on a small machine takes minutes
    upstream_idle_s: Positive = 120.0
    # Tokens that a stream is taken to think in each second of silence; 0: none. See usage.py.
    gateway_unseen_tokens_per_s: Annotated[float, Field(ge=0)] = UNSEEN_TOKENS_PER_S

    @model_validator(mode="after")
    def _nothing_is_replayed_unasked(self) -> Self:
        if self.llm_cassette and self.llm_provider != "replay":
            raise ValueError(
                "LLM_CASSETTE: only LLM_PROVIDER=replay replays it: set that too, or take the"
                " cassette away (what tasks record and replay is in LLM_CASSETTES)"
            )
        return self

    def base_url(self) -> str:
        """Raises: SystemExit that names the variable."""
        name, version = "LLM_BASE_URL", "v1beta" if self.llm_provider == "gemini" else "v1"
        try:
            if self.llm_base_url:
                return urls.base(self.llm_base_url, version)
            match self.llm_provider:
                case "ollama":
                    name = "OLLAMA_HOST"
                    return urls.ollama(self.ollama_host)
                case "anthropic":
                    name, default = "ANTHROPIC_BASE_URL", urls.ANTHROPIC_BASE_URL
                    return urls.base(self.anthropic_base_url or default, version)
                case "gemini":
                    name, default = "GEMINI_BASE_URL", urls.GEMINI_BASE_URL
                    return urls.base(self.gemini_base_url or default, version)
                case "dmr":
                    return urls.DMR_BASE_URL
            name = "OPENAI_BASE_URL"
            return urls.base(self.openai_base_url or urls.OPENAI_BASE_URL, version)
        except ValueError as e:
            raise SystemExit(f"bad settings: {name}: {e}") from e

    @property
    def url_name(self) -> str:
        """The variable that the base URL is from, or that would set it."""
        if self.llm_base_url:
            return "LLM_BASE_URL"
        own = {
            "ollama": ("OLLAMA_HOST", True),
            "openai": ("OPENAI_BASE_URL", self.openai_base_url),
            "anthropic": ("ANTHROPIC_BASE_URL", self.anthropic_base_url),
            "gemini": ("GEMINI_BASE_URL", self.gemini_base_url),
        }
        name, given = own.get(self.llm_provider, ("", False))
        return name if given else "LLM_BASE_URL"

    def keys(self) -> tuple[str, ...]:
        """What must stand in no record."""
        keys = (
            *(self.openai_api_key, self.anthropic_api_key, self.gemini_api_key),
            *(self.google_api_key, self.service_token),
        )
        return tuple(key for key in keys if key)

    def api_key(self) -> str:
        """Raises: SystemExit that names the variable."""
        name, key = "OPENAI_API_KEY", self.openai_api_key
        match self.llm_provider:
            case "anthropic":
                name, key = "ANTHROPIC_API_KEY", self.anthropic_api_key
            case "gemini":
                name, key = "GEMINI_API_KEY", self.gemini_api_key
                if not key:
                    name, key = "GOOGLE_API_KEY", self.google_api_key
        try:
            return dialects.checked_key(key)
        except ValueError as e:
            raise SystemExit(f"bad settings: {name}: {e}") from e

    def dialect(self) -> Dialect:
        """Raises: SystemExit that names the variable."""
        match self.llm_provider:
            case "anthropic":
                return dialects.ANTHROPIC
            case "gemini":
                return dialects.GEMINI
        if self.llm_formats:
            return dialects.openai(formats(self.llm_formats))
        itself = self.base_url() == urls.OPENAI_BASE_URL
        return dialects.openai(("chat", "responses") if itself else ("chat",))


def formats(text: str) -> tuple[Format, ...]:
    """Of LLM_FORMATS. Raises: SystemExit."""
    names = [name for part in text.split(",") if (name := part.strip())]
    known = {name: name for name in get_args(Format)}
    unknown = sorted(set(names) - known.keys())
    if unknown or not names:
        raise SystemExit(
            f"bad settings: LLM_FORMATS: {', '.join(unknown) or 'nothing'} is no format; "
            f"choose from: {', '.join(known)}"
        )
    return tuple(known[name] for name in names)
