"""The operator's routes: a YAML file, LLM_CONFIG.

    providers:                      # servers, by names of your own
      openai: {kind: openai, api_key_env: OPENAI_API_KEY, concurrency: 64}
      home:   {kind: openai, base_url: "http://10.0.0.7:8000", concurrency: 4, free: true}
    routes:                         # by the model that a task names
      coder:
        aliases: [gpt-5, default]
        deployments:
          - {provider: openai, model: gpt-5, weight: 3}
          - {provider: home, model: qwen3-coder}
        fallbacks: {rate-limited: [small], context-length: [long], failed: [small]}
      small: {deployments: [{provider: home, model: qwen3-8b}]}
      long:  {deployments: [{provider: openai, model: gpt-4.1}]}
    retries: {attempts_max: 3, backoff_ms: 500, backoff_max_ms: 20000}
    breaker: {failures: 5, open_s: 30}

A provider: `kind` openai, anthropic, gemini, ollama or dmr; `base_url` where it has no usual one;
`api_key_env` or `api_key_file`, never the key itself; `formats`, of an openai one; `concurrency`,
requests open at once (of this gateway); `free`, what costs no money; `first_byte_s`, `idle_s`.
A deployment's `model` is the route's name if left out, its `weight` 1; 0 is asked last.
`fallbacks` are routes, in order, for a reason (reasons.py) or `any`. `retries` and `breaker` may
stand in a route too. A model that no route names is answered by `default_provider`, if it is given.
Raises: ConfigError; its message begins with the path of what is wrong.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from wfhub_common.model_paths import Format

from wfhub_llm_gateway.routing.reasons import Reason

FILE_BYTES_MAX = 1024 * 1024
ROUTES_MAX = 1000
DEPLOYMENTS_MAX = 50
FALLBACK_DEPTH_MAX = 5  # routes that one request goes through, its own included

Kind = Literal["openai", "anthropic", "gemini", "ollama", "dmr"]
Name = str


class ConfigError(Exception):
    """The file is not what routes are; says where."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProviderConfig(_Part):
    kind: Kind = "openai"
    base_url: str = Field("", pattern=r"^(https?://.+)?$")
    api_key_env: str = Field("", pattern=r"^[A-Za-z0-9_]*$")
    api_key_file: str = ""
    formats: tuple[Format, ...] = ()
    concurrency: int = Field(256, ge=1, le=10_000)
    free: bool = False
    first_byte_s: float | None = Field(None, gt=0, le=86_400)
    idle_s: float | None = Field(None, gt=0, le=86_400)


class Deployment(_Part):
    provider: Name
    model: str = Field("", max_length=200)
    weight: int = Field(1, ge=0, le=1000)


class Retries(_Part):
    """`attempts_max`: servers asked for one request, over all deployments and fallbacks."""

    attempts_max: int = Field(3, ge=1, le=20)
    backoff_ms: int = Field(500, ge=0, le=60_000)
    backoff_max_ms: int = Field(20_000, ge=0, le=600_000)


class Breaker(_Part):
    """After so many `failures` in a row a deployment is left alone for `open_s`."""

    failures: int = Field(5, ge=1, le=1000)
    open_s: float = Field(30, gt=0, le=3600)


class Route(_Part):
    aliases: tuple[str, ...] = ()
    deployments: tuple[Deployment, ...] = Field(min_length=1, max_length=DEPLOYMENTS_MAX)
    fallbacks: dict[Literal[Reason, "any"], tuple[Name, ...]] = Field(default_factory=dict)
    retries: Retries | None = None
    breaker: Breaker | None = None


class _File(_Part):
    providers: dict[Name, ProviderConfig] = Field(min_length=1, max_length=ROUTES_MAX)
    routes: dict[Name, Route] = Field(default_factory=dict, max_length=ROUTES_MAX)
    retries: Retries = Retries()
    breaker: Breaker = Breaker()
    default_provider: Name | None = None


@dataclass(frozen=True)
class Routes:
    """Checked: whatever is named is there."""

    providers: Mapping[Name, ProviderConfig]
    routes: Mapping[Name, Route]
    retries: Retries
    breaker: Breaker
    default_provider: Name | None
    by_alias: Mapping[str, Name]

    def find(self, model: str) -> tuple[Name, Route] | None:
        """By name or alias; a route of its own for any other model, where there is a default."""
        name = model if model in self.routes else self.by_alias.get(model)
        if name is not None:
            return name, self.routes[name]
        if self.default_provider is None:
            return None
        deployment = Deployment(provider=self.default_provider, model=model)
        return model, Route(deployments=(deployment,))

    def retries_of(self, route: Route) -> Retries:
        return route.retries or self.retries

    def breaker_of(self, route: Route) -> Breaker:
        return route.breaker or self.breaker


def load(path: Path) -> Routes:
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"cannot be read: {e}") from e
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} is over {FILE_BYTES_MAX} bytes")
    try:
        value = yaml.load(raw, Loader=_Unambiguous)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as e:
        raise ConfigError(f"{path} is no YAML: {e}") from e
    return parse(value)


class _Unambiguous(yaml.SafeLoader):
    """A key that is there twice is a mistake, not an override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a text", key_node.start_mark
                )
            if key in seen:
                mark = key_node.start_mark
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands here twice", mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse(value: Any) -> Routes:
    if not isinstance(value, dict):
        raise ConfigError("the file must be a mapping with `providers` and `routes`")
    try:
        file = _File.model_validate(value)
    except ValidationError as e:
        raise ConfigError(_first(e)) from e
    by_alias = _aliases(file)
    _check_providers(file)
    _check_fallbacks(file)
    return Routes(
        providers=file.providers,
        routes=file.routes,
        retries=file.retries,
        breaker=file.breaker,
        default_provider=file.default_provider,
        by_alias=by_alias,
    )


_SAID = {  # of what pydantic says in words of Python's
    "extra_forbidden": "there is no such setting",
    "missing": "is missing",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "string_type": "must be a text",
}


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
    said = _SAID.get(first["type"], first["msg"])
    return f"{path.removeprefix('.').removesuffix('.[key]')}: {said}"


def _aliases(file: _File) -> dict[str, Name]:
    owners: dict[str, Name] = {}
    for name, route in file.routes.items():
        for n, alias in enumerate(route.aliases):
            where = f"routes.{name}.aliases[{n}]"
            if alias in file.routes and alias != name:
                raise ConfigError(f"{where}: {alias!r} is a route already")
            if owners.setdefault(alias, name) != name:
                raise ConfigError(f"{where}: {alias!r} is an alias of {owners[alias]!r} already")
    return owners


def _check_providers(file: _File) -> None:
    known = ", ".join(file.providers)
    if file.default_provider is not None and file.default_provider not in file.providers:
        raise ConfigError(
            f"default_provider: there is no provider {file.default_provider!r}; there is: {known}"
        )
    for name, route in file.routes.items():
        for n, deployment in enumerate(route.deployments):
            if deployment.provider not in file.providers:
                raise ConfigError(
                    f"routes.{name}.deployments[{n}].provider: there is no provider"
                    f" {deployment.provider!r}; there is: {known}"
                )
    for name, provider in file.providers.items():
        if provider.api_key_env and provider.api_key_file:
            raise ConfigError(f"providers.{name}: give api_key_env or api_key_file, not both")
        if provider.formats and provider.kind != "openai":
            raise ConfigError(f"providers.{name}.formats: is for kind openai only")


def _check_fallbacks(file: _File) -> None:
    for name, route in file.routes.items():
        for reason, names in route.fallbacks.items():
            for n, fallback in enumerate(names):
                where = f"routes.{name}.fallbacks.{reason}[{n}]"
                if fallback not in file.routes:
                    raise ConfigError(f"{where}: there is no route {fallback!r}")
                if fallback == name:
                    raise ConfigError(f"{where}: a route cannot fall back to itself")
