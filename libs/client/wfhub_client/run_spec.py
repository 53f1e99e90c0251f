"""What `wfhub run` was asked for, as a task to submit. Pure but for looking at named files.

Raises: Usage, with a sentence that names the option.
"""

import re
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wfhub_client import model_use
from wfhub_client.errors import Usage

_SCP_LIKE = re.compile(r"[A-Za-z0-9_.-]+@[A-Za-z0-9.-]+:(?!//)")


_FOLDER = re.compile(r"(mount|directory):")  # below the runner's WORKSPACE_ROOT


def is_remote(repo: str) -> bool:
    """Whether it is no path of this machine."""
    return _FOLDER.match(repo) is not None or "://" in repo or _SCP_LIKE.match(repo) is not None


def repo_of(value: str) -> str:
    """A URL as it is; a path made absolute, and looked at before anything is submitted."""
    if is_remote(value):
        parts = urlsplit(value) if "://" in value else None
        if parts and (parts.password or (parts.scheme.startswith("http") and parts.username)):
            raise Usage(
                "--repo: a password or token in a URL would be stored; give it to the runner"
                " instead (GIT_CREDENTIALS_FILE)"
            )
        return value
    path = Path(value).expanduser().absolute()
    if not path.exists():
        raise Usage(f"--repo: there is no folder {path}")
    if not path.is_dir():
        raise Usage(f"--repo: {path} is a file; give the folder of a git repository")
    return str(path.resolve())


def prompt_of(value: str) -> str:
    """The text, or the content of the file behind `@`."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).expanduser().read_text()
    except OSError as e:
        raise Usage(f"--prompt: cannot read {value[1:]}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise Usage(f"--prompt: {value[1:]} is not UTF-8 text") from e


def agent_of(name: str | None, command: str | None, model: str | None) -> dict[str, Any]:
    if name is not None and command is not None:
        raise Usage("give --agent or --agent-cmd, not both")
    agent: dict[str, Any] = {"name": name} if name else {}
    if command is not None:
        try:
            agent["argv"] = shlex.split(command)
        except ValueError as e:
            raise Usage(f"--agent-cmd: {e}") from e
        if not agent["argv"]:
            raise Usage("--agent-cmd: there is no command in it")
    if model is not None:
        agent["model"] = model
    return agent


def task_spec(
    *,
    repo: str,
    prompt: str,
    agent: dict[str, Any],
    verify: list[str],
    verify_base: bool,
    base: str | None,
    attempts: int,
    timeout_s: int | None,
    title: str,
) -> dict[str, Any]:
    if verify_base and not verify:
        raise Usage("--verify-base: give a --verify command to run on the base too")
    spec: dict[str, Any] = {
        "repo": repo,
        "prompt": prompt,
        "agent": agent,
        "verify": verify,
        "verify_base": verify_base,
        "retry": {"attempts_max": attempts},
        "title": title,
    }
    if base is not None:
        spec["base"] = base
    if timeout_s is not None:
        spec["limits"] = {"run_s": timeout_s}
    return spec


def instant_of(option: str, value: str | None) -> str | None:
    """RFC 3339; without an offset it is this machine's time."""
    if value is None:
        return None
    try:
        return datetime.fromisoformat(value).astimezone().isoformat()
    except ValueError as e:
        raise Usage(f"{option}: {value!r} is not a time such as 2030-01-31T18:00") from e


def add_conditions(
    spec: dict[str, Any],
    *,
    priority: int | None,
    labels: list[str] | None,
    egress: list[str] | None,
    image: str | None,
    setup: list[str] | None,
    setup_egress: list[str] | None,
    pool: str | None,
    run_at: str | None,
    deadline_at: str | None,
    queue_s: int | None,
    review_s: int | None,
    idle_s: int | None,
    retry_on: list[str] | None,
    backoff_s: float | None,
) -> None:
    """When, where and how often a task runs, into its spec; what is None keeps its default."""
    given = {
        "priority": priority,
        "labels": labels or None,
        "egress": egress or None,
        "image": image,
        "setup": setup or None,
        "setup_egress": setup_egress or None,
        "pool": pool,
        "run_at": run_at,
        "deadline_at": deadline_at,
        "queue_s": queue_s,
        "review_s": review_s,
    }
    spec.update({name: value for name, value in given.items() if value is not None})
    if idle_s is not None:
        spec.setdefault("limits", {})["idle_s"] = idle_s
    if retry_on:
        spec.setdefault("retry", {})["on"] = retry_on
    if backoff_s is not None:
        spec.setdefault("retry", {})["backoff_ms"] = round(backoff_s * 1000)


def add_model_use(
    spec: dict[str, Any],
    *,
    budget: list[str] | None,
    cassette: str | None,
    mcp: list[str] | None,
) -> None:
    if budget:
        spec["budget"] = model_use.budget(budget)
    if cassette is not None and cassette != "none":
        spec["cassette"] = model_use.cassette(cassette)
    if mcp:
        spec["agent"]["mcp"] = model_use.servers(mcp)


def add_pull_request(
    spec: dict[str, Any], wanted: bool, *, target: str | None, draft: bool
) -> None:
    if not wanted:
        if target is not None or draft:
            raise Usage("--target, --draft: say --pull-request too")
        return
    spec["pull_request"] = {"draft": draft, **({"target": target} if target else {})}
