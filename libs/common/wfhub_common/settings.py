"""Settings: frozen, read once at a process's edge from its environment.

A field `nats_url` is read from `NATS_URL`; an empty variable counts as not set. A secret is
given as `X` or, better, as a file named by `X_FILE` (its content stripped).
Raises: SystemExit with one line that names the variable, so a bad start is a clear one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        values: dict[str, str] = {}
        for name in cls.model_fields:
            variable = name.upper()
            if env.get(variable):
                values[name] = env[variable]
            elif env.get(f"{variable}_FILE") and f"{name}_file" not in cls.model_fields:
                values[name] = _read(f"{variable}_FILE", env[f"{variable}_FILE"])
        try:
            return cls.model_validate(values)
        except ValidationError as e:
            lines = [
                f"{str(err['loc'][0]).upper()}: {err['msg']}"
                if err["loc"]
                else err["msg"].removeprefix("Value error, ")
                for err in e.errors()
            ]
            raise SystemExit("bad settings: " + "; ".join(lines)) from e


def _read(variable: str, path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError as e:
        raise SystemExit(f"bad settings: {variable}: cannot read {path}: {e.strerror}") from e


class BrokerSettings(Settings):
    """What every service needs to reach NATS, and to be watched."""

    nats_url: str = "nats://127.0.0.1:4222"
    nats_user: str = ""
    nats_password: str = ""
    log_level: str = "INFO"
    log_format: str = "json"  # json | console
    metrics_listen: str = ""  # host:port of GET /metrics, for the operator alone; empty: none
    otel_exporter_otlp_endpoint: str = ""  # of a collector for spans, such as http://host:4318
    start_wait_s: float = Field(120.0, ge=0)  # for a database that is there and cannot be used
    clock_skew_s_max: float = Field(60.0, gt=0)  # between hosts; nothing is decided by less

    @model_validator(mode="after")
    def _both(self) -> Self:
        if bool(self.nats_user) != bool(self.nats_password):
            raise ValueError("NATS_USER and NATS_PASSWORD: set both, or none of them")
        if self.nats_url.startswith(("ws://", "wss://")):  # light.py
            raise ValueError("NATS_URL: not by WebSocket; set nats://host:port or tls://host:port")
        return self
