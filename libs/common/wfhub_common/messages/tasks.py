"""A task as it is submitted: repository, agent, verification, limits."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator

from wfhub_common import limits
from wfhub_common.messages.base import Command

ShellCommand = Annotated[
    str, StringConstraints(min_length=1, max_length=limits.COMMAND_CHARS_MAX, pattern=r"^[^\x00]+$")
]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Limits(Command):
    """What one attempt may use; exceeding one ends it with the reason `limit:<name>`."""

    run_s: int = Field(3600, ge=1, le=86_400)
    verify_s: int = Field(1800, ge=1, le=86_400)
    memory_bytes: int = Field(4 * 1024**3, ge=64 * 1024**2)
    processes: int = Field(512, ge=8, le=65_536)
    disk_bytes: int = Field(4 * 1024**3, ge=1024**2)  # written to the workspace and /tmp
    file_bytes: int = Field(1024**3, ge=1024)
    output_bytes: int = Field(64 * 1024**2, ge=1024)  # read of stdout and stderr before it ends
    open_files: int = Field(4096, ge=64, le=1_048_576)


class AgentSpec(Command):
    """Which agent: a name from the runner's table, or `argv`, any program, run as the agent."""

    name: Slug = "builtin"
    argv: tuple[str, ...] | None = Field(None, min_length=1, max_length=limits.ARGV_MAX)
    model: str | None = Field(None, min_length=1, max_length=200)
    max_steps: int = Field(50, ge=1, le=1000)


class TaskSpec(Command):
    """A task as submitted. `repo` is a path or `file://` URL on the runner's side, or a remote."""

    repo: str = Field(min_length=1, max_length=limits.URL_CHARS_MAX, pattern=r"^[^\x00-\x1f]+$")
    base: str | None = Field(None, min_length=1, max_length=limits.REF_CHARS_MAX)  # None: HEAD
    prompt: str = Field("", max_length=limits.PROMPT_BYTES_MAX)
    title: str = Field("", max_length=limits.TITLE_CHARS_MAX)
    agent: AgentSpec = AgentSpec()
    verify: tuple[ShellCommand, ...] = Field((), max_length=limits.VERIFY_COMMANDS_MAX)
    verify_base: bool = False  # also run `verify` on the base commit, for a before and after
    limits: Limits = Limits()
    attempts_max: int = Field(1, ge=1, le=20)  # agent attempts; lost infrastructure is not counted
    budget_tokens: int | None = Field(None, ge=1)  # model tokens an attempt may use
    priority: int = Field(0, ge=-100, le=100)
    pool: Slug = "default"

    @field_validator("repo")
    @classmethod
    def _no_password(cls, repo: str) -> str:
        """A task is stored and shown: what opens a repository belongs to the runner."""
        if "://" in repo and urlsplit(repo).password:
            raise ValueError("a password in a URL would be stored; give it to the runner instead")
        return repo
