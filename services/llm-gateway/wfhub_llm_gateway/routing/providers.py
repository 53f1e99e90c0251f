"""The providers of a routes file, made: their URLs, keys, dialects.

A key is read once, at the start, from the variable or the file that the configuration names.
Raises: ConfigError, with the path of what is wrong.
"""

from collections.abc import Mapping
from pathlib import Path

from wfhub_llm_gateway import dialects, urls
from wfhub_llm_gateway.dialects import Dialect
from wfhub_llm_gateway.routing.config import ConfigError, ProviderConfig, Routes
from wfhub_llm_gateway.settings import GatewaySettings
from wfhub_llm_gateway.upstream import HttpProvider, SettingNames

USUAL_KEYS = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
}
_USUAL_URLS = {
    "openai": urls.OPENAI_BASE_URL,
    "anthropic": urls.ANTHROPIC_BASE_URL,
    "gemini": urls.GEMINI_BASE_URL,
    "dmr": urls.DMR_BASE_URL,
}


def made(
    routes: Routes, settings: GatewaySettings, environment: Mapping[str, str]
) -> tuple[dict[str, HttpProvider], tuple[str, ...]]:
    """By name; and their keys, which must stand in no record."""
    keys = {
        name: _checked(_key(config, environment, f"providers.{name}"), f"providers.{name}")
        for name, config in routes.providers.items()
    }
    providers = {}
    for name, config in routes.providers.items():
        url = _base_url(config, f"providers.{name}.base_url")
        providers[name] = HttpProvider(
            name,
            url,
            keys[name],
            _dialect(config, url),
            names=_names(config, name),
            first_byte_s=config.first_byte_s or settings.upstream_first_byte_s,
            idle_s=config.idle_s or settings.upstream_idle_s,
        )
    return providers, tuple(key for key in keys.values() if key)


def _base_url(config: ProviderConfig, where: str) -> str:
    version = "v1beta" if config.kind == "gemini" else "v1"
    try:
        if config.base_url:
            return urls.base(config.base_url, version)
        if config.kind == "ollama":
            return urls.ollama("")
    except ValueError as e:
        raise ConfigError(f"{where}: {e}") from e
    return _USUAL_URLS[config.kind]


def _dialect(config: ProviderConfig, url: str) -> Dialect:
    match config.kind:
        case "anthropic":
            return dialects.ANTHROPIC
        case "gemini":
            return dialects.GEMINI
    if config.formats:
        return dialects.openai(config.formats)
    return dialects.openai(("chat", "responses") if url == urls.OPENAI_BASE_URL else ("chat",))


def _names(config: ProviderConfig, name: str) -> SettingNames:
    def in_file(field: str) -> str:
        return f"providers.{name}.{field} (in LLM_CONFIG)"

    usual = () if config.base_url else USUAL_KEYS.get(config.kind, ())
    key = config.api_key_env or config.api_key_file or next(iter(usual), in_file("api_key_env"))
    return SettingNames(in_file("base_url"), key, in_file("first_byte_s"), in_file("idle_s"))


def _checked(key: str, where: str) -> str:
    try:
        return dialects.checked_key(key)
    except ValueError as e:
        raise ConfigError(f"{where}: {e}") from e


def _key(config: ProviderConfig, environment: Mapping[str, str], where: str) -> str:
    if config.api_key_env:
        if not (key := environment.get(config.api_key_env, "")):
            raise ConfigError(f"{where}.api_key_env: {config.api_key_env} is not set")
        return key
    if config.api_key_file:
        try:
            return Path(config.api_key_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{where}.api_key_file: cannot be read: {e}") from e
    if config.base_url:
        return ""  # a key of the usual name is for the usual server
    names = USUAL_KEYS.get(config.kind, ())
    return next((key for name in names if (key := environment.get(name, ""))), "")
