"""Limits of one attempt: as a task asks for them, as its project bounds them, as they are in force.

Units are in the names; one and a half cores are 1500 millicores. A limit that is None is not said:
what then holds is the project's default, else the product's (`Limits`), never more than the
project's maximum. It is settled once, when the task is submitted.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from wfhub_common.messages.base import Command

Seconds = Annotated[int, Field(ge=1, le=86_400)]
Millicores = Annotated[int, Field(ge=50, le=1_024_000)]
MemoryBytes = Annotated[int, Field(ge=64 * 1024**2, le=2**50)]
Processes = Annotated[int, Field(ge=8, le=65_536)]
DiskBytes = Annotated[int, Field(ge=1024**2, le=2**50)]
Bytes = Annotated[int, Field(ge=1024, le=2**50)]
OpenFiles = Annotated[int, Field(ge=64, le=1_048_576)]


class Limits(Command):
    """What one attempt may use; exceeding one ends it with the reason `limit:<name>`."""

    run_s: Seconds = 3600
    idle_s: Seconds | None = None  # neither output nor a model call for so long
    verify_s: Seconds = 1800  # each command
    setup_s: Seconds = 1800  # each command
    cpu_millicores: Millicores | None = None  # None: as many as there are
    memory_bytes: MemoryBytes = 4 * 1024**3
    processes: Processes = 512
    disk_bytes: DiskBytes = 4 * 1024**3  # written to the workspace and /tmp
    file_bytes: Bytes = 1024**3
    output_bytes: Bytes = 64 * 1024**2  # read of stdout and stderr before it ends
    open_files: OpenFiles = 4096


class LimitsAsked(Command):
    """Some of them. None: not said."""

    run_s: Seconds | None = None
    idle_s: Seconds | None = None
    verify_s: Seconds | None = None
    setup_s: Seconds | None = None
    cpu_millicores: Millicores | None = None
    memory_bytes: MemoryBytes | None = None
    processes: Processes | None = None
    disk_bytes: DiskBytes | None = None
    file_bytes: Bytes | None = None
    output_bytes: Bytes | None = None
    open_files: OpenFiles | None = None

    def said(self) -> dict[str, int]:
        return {name: value for name, value in self if value is not None}

    def in_force(self) -> Limits:
        """With the product's defaults for what is not said; of a stored task, all is."""
        return Limits.model_validate(self.said())


class LimitPolicy(Command):
    """What a project's tasks get and may ask for."""

    default: LimitsAsked = LimitsAsked()
    max: LimitsAsked = LimitsAsked()

    @model_validator(mode="after")
    def _defaults_are_allowed(self) -> Self:
        most = self.max.said()
        for name, value in self.default.said().items():
            if value > most.get(name, value):
                raise ValueError(
                    f"default.{name}: {value} is more than the project's own maximum {most[name]}"
                )
        return self


class LimitChanges(Command):
    """By name; null takes one away, what is not named stays as it is."""

    default: dict[str, int | None] = Field(default_factory=dict, max_length=32)
    max: dict[str, int | None] = Field(default_factory=dict, max_length=32)
