"""`wfhub agent test NAME`: the real program in a real sandbox, on a small task, with a cassette.

A stack of its own, a repository of its own, the replayed model; everything else is as it will be.
What worked is said line by line; exit code 0 when the branch is published and its proof verifies.
Raises: CommandFailed, SystemExit.
"""

import base64
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wfhub_local.agents import task
from wfhub_local.agents.scripts import SCRIPTS
from wfhub_local.demo import commands
from wfhub_local.demo.commands import Shell, say

RUN_S = 300  # the program starts, works and ends in far less on an idle machine
CASSETTES = resources.files(__package__) / "cassettes"


@dataclass(frozen=True)
class Folder:
    """As commands.Places; `path` is a temporary folder that service uids may pass through."""

    path: Path
    toolchain: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def config(self) -> Path:
        return self.path / "config"

    @property
    def repository(self) -> Path:
        return self.path / "repository"


@dataclass(frozen=True)
class Outcome:
    task: dict[str, Any]
    observed: dict[str, Any]  # the proof's `runner`
    exchanges: int
    replayed: int
    events: tuple[dict[str, Any], ...]


def run(name: str, toolchain: Path, env: Mapping[str, str]) -> int:
    if name not in SCRIPTS:
        raise SystemExit(f"{name!r} has no self-test; choose one of: {', '.join(sorted(SCRIPTS))}")
    if not toolchain.is_dir() and name != "builtin":  # which needs none
        raise SystemExit(f"there is no folder {toolchain}: `wfhub agent install {name}` makes it")
    cassette = CASSETTES / f"{name}.cassette.jsonl"
    with tempfile.TemporaryDirectory(prefix="wfhub-agent-") as scratch:
        folder = Folder(Path(scratch), toolchain)
        folder.path.chmod(0o755)
        if not toolchain.is_dir():
            folder = Folder(folder.path, folder.path / "nothing")
            folder.toolchain.mkdir()
        with resources.as_file(cassette) as path:
            provider = {"LLM_PROVIDER": "replay", "LLM_CASSETTE": str(path)}
            outcome = played(name, folder, provider, env)
    say("", *lines(name, outcome))
    return 0 if outcome.task["state"] == "succeeded" else 1


def played(
    name: str,
    folder: Folder,
    provider: Mapping[str, str],
    env: Mapping[str, str],
    *,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Outcome:
    """The self-test's task done by `name` on a stack of its own; `more` files in the repository."""
    folder.config.mkdir(parents=True, exist_ok=True)
    task.make_repository(folder.repository, {**task.FILES, **more})
    with commands.stack(folder, env, provider) as shell:
        return asked(name, folder.repository, shell)


def asked(name: str, repository: Path, shell: Shell) -> Outcome:
    done = shell.wfhub_json(
        "run",
        f"--repo={repository}",
        f"--prompt={task.PROMPT}",
        f"--title={task.TITLE}",
        f"--agent={name}",
        f"--verify={task.CHECK}",
        f"--timeout-s={RUN_S}",
    )
    shown = shell.wfhub("logs", done["task_id"], "--events", "--json", check=False).stdout
    if not done["proof_id"]:
        say(shell.wfhub("logs", done["task_id"], check=False).stdout)
        return Outcome(done, {}, 0, 0, _objects(shown))
    proof = repository.with_name("proof.json")
    proof.unlink(missing_ok=True)
    shell.wfhub("proof", "trust", check=False)
    shell.wfhub("proof", "export", done["proof_id"], f"--output={proof}")
    shell.wfhub("proof", "verify", str(proof))
    observed = observations(json.loads(proof.read_text()))
    calls = observed["gateway"]["exchanges"]
    replayed = sum(bool(call.get("replayed")) for call in calls)
    return Outcome(done, observed["runner"], len(calls), replayed, _objects(shown))


def observations(proof: dict[str, Any]) -> dict[str, Any]:
    statement = json.loads(base64.b64decode(proof["envelope"]["payload"]))
    observed: dict[str, Any] = statement["predicate"]["observed"]
    return observed


def lines(name: str, outcome: Outcome) -> list[str]:
    done, runner = outcome.task, outcome.observed
    if done["state"] != "succeeded":
        return [f"{name}: {done['state']}: {done['reason']}: {done.get('message', '')}"]
    kinds = [event.get("event") for event in outcome.events]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return [
        f"{name}: works here",
        f"  version      {runner['agent_version'] or 'not told'}",
        f"  wire format  {runner['agent_details']['wire']}",
        f"  model        {outcome.replayed} of {outcome.exchanges} exchanges replayed, scripted: "
        "no model said them",
        f"  events       {counted or 'none'}",
        f"  result       {done['branch']} at {done['commit'][:12]}, verified by `{task.CHECK}`, "
        "with a proof that verifies",
    ]


def _objects(text: str) -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(line) for line in text.splitlines() if line.startswith("{"))
