"""Settings: frozen, read once at a process's edge from its environment.

A field `nats_url` is read from `NATS_URL`; an empty variable counts as not set. A secret is
given as `X` or, better, as a file named by `X_FILE` (its content stripped), never as both.
Raises: SystemExit with one line that names the variable, so a bad start is a clear one.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

PORT_MAX = 65535
DATABASE_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
DATABASE_OPTIONS = frozenset({"host", "port", "sslmode"})  # that the driver and pg_dump both know


class Settings(BaseModel):
    """What has one of these names has its form, in whichever service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("database_url", check_fields=False)
    @classmethod
    def _database_url(cls, value: str) -> str:
        if {name for name, _ in parse_qsl(urlsplit(value).query)} - DATABASE_OPTIONS:
            options = ", ".join(sorted(DATABASE_OPTIONS))
            raise ValueError(f"of options behind its '?' only these are known: {options}")
        return _url(value, *DATABASE_SCHEMES)

    @field_validator("proofs_url", "gateway_url", "otel_exporter_otlp_endpoint", check_fields=False)
    @classmethod
    def _http_url(cls, value: str) -> str:
        return _url(value, "http", "https")

    @field_validator("http_listen", "metrics_listen", check_fields=False)
    @classmethod
    def _address(cls, value: str) -> str:
        """host:port, or fd:N from a supervisor."""
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdecimal() and int(port) <= PORT_MAX):
            raise ValueError(f"{value!r} is no host:port, such as 0.0.0.0:8080")
        return value

    @field_validator("service_token", check_fields=False)
    @classmethod
    def _service_token(cls, value: str) -> str:
        if not (value.isascii() and value.isprintable()):  # it goes into a header
            raise ValueError("it is no token that `wfhub-admin secrets` made")
        return value

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        values: dict[str, str] = {}
        for name in cls.model_fields:
            variable = name.upper()
            by_file = f"{name}_file" not in cls.model_fields and env.get(f"{variable}_FILE")
            if env.get(variable) and by_file:
                raise SystemExit(
                    f"bad settings: {variable} and {variable}_FILE: set one of them; a file is"
                    " better kept"
                )
            if env.get(variable):
                values[name] = env[variable]
            elif by_file:
                values[name] = _read(f"{variable}_FILE", by_file)
        try:
            return cls.model_validate(values)
        except ValidationError as e:
            lines = [
                ": ".join(
                    [
                        *(str(name).upper() for name in err["loc"][:1]),
                        err["msg"].removeprefix("Value error, "),
                    ]
                )
                for err in e.errors()
            ]
            raise SystemExit("bad settings: " + "; ".join(lines)) from e


def _url(value: str, *schemes: str) -> str:
    """`value`, if it is empty or such a URL. It may have a password, so it is not repeated."""
    if not value:
        return value
    if not value.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise ValueError(f"must begin with {schemes[0]}://")
    try:
        parts = urlsplit(value)
        if parts.port == 0:
            raise ValueError
    except ValueError:
        raise ValueError(f"its port is no number from 1 to {PORT_MAX}") from None
    if not parts.hostname and schemes != DATABASE_SCHEMES:  # those may name a socket's folder
        raise ValueError("it names no host")
    return value


def _read(variable: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as e:
        raise SystemExit(f"bad settings: {variable}: cannot read {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise SystemExit(f"bad settings: {variable}: {path} is no text in UTF-8") from e


class BrokerSettings(Settings):
    """What every service needs to reach NATS, and to be watched."""

    nats_url: str = "nats://127.0.0.1:4222"
    nats_user: str = ""
    nats_password: str = ""
    log_level: str = "INFO"
    log_format: Literal["json", "console"] = "json"
    metrics_listen: str = ""  # host:port of GET /metrics, for the operator alone; empty: none
    otel_exporter_otlp_endpoint: str = ""  # of a collector for spans, such as http://host:4318
    start_wait_s: float = Field(120.0, ge=0)  # for a database that is there and cannot be used
    clock_skew_s_max: float = Field(60.0, gt=0)  # between hosts; nothing is decided by less

    @field_validator("nats_url")
    @classmethod
    def _nats_url(cls, value: str) -> str:
        if value.startswith(("ws://", "wss://")):  # light.py
            raise ValueError("not by WebSocket; set nats://host:port or tls://host:port")
        return _url(value, "nats", "tls")

    @field_validator("log_level")
    @classmethod
    def _log_level(cls, value: str) -> str:
        if value.upper() not in logging.getLevelNamesMapping():
            raise ValueError(f"{value!r} is none: choose DEBUG, INFO, WARNING or ERROR")
        return value

    @model_validator(mode="after")
    def _both(self) -> Self:
        if bool(self.nats_user) != bool(self.nats_password):
            raise ValueError("NATS_USER and NATS_PASSWORD: set both, or none of them")
        return self
