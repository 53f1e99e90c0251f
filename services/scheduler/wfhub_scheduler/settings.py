"""Settings of the scheduler, read once from the environment. Units: `*_s` seconds."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from wfhub_common import limits
from wfhub_common.settings import BrokerSettings, Settings


class SchedulerSettings(BrokerSettings):
    database_url: str
    proof_public_key_file: str = Field(min_length=1)  # PEM; may appear after we started
    lease_ttl_s: float = Field(limits.LEASE_TTL_S, gt=0)  # 3 heartbeats: one lost is not a loss
    heartbeat_s: float = Field(limits.HEARTBEAT_S, gt=0)
    retry_base_s: float = Field(2.0, gt=0)  # of publications and proofs; doubles from there
    stop_grace_s: float = Field(300.0, gt=0)  # for a runner told to stop to hand in its evidence
    attempt_margin_s: float = Field(3600.0, gt=0)  # beside a task's limits: checkout, outages
    stream_replicas: int = Field(1, ge=1, le=5)  # of each stream; 3 where NATS has three servers
    ready_file: Path | None = None  # touched every few seconds once it works, for a supervisor

    @model_validator(mode="after")
    def _beats_in_time(self) -> Self:
        if self.heartbeat_s >= self.lease_ttl_s:
            raise ValueError(
                "HEARTBEAT_S must be below LEASE_TTL_S: a lease ends before its renewal"
            )
        return self


class MigrateSettings(Settings):
    database_url: str
