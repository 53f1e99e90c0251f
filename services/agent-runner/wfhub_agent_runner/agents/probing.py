"""Which version of an agent's program a sandbox has, asked of the program itself.

Asked once in a runner for each file that the program is: with the agent's own binds and no
checkout to mislead it. Raises: Rejected("agent-not-found") when the sandbox has no such program.
"""

import asyncio
import re
import shutil
from dataclasses import replace
from pathlib import Path

from wfhub_common.errors import Rejected

from wfhub_agent_runner.agents.entry import AgentEntry, Install
from wfhub_agent_runner.sandbox import port

PROBE_S_MAX = 60.0
ANSWER_BYTES_MAX = 64 * 1024
_VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?(?:[-+.]?[0-9A-Za-z]+)*")


class Versions:
    """By agent, image, and what its program is outside (a bind that changed is asked again)."""

    def __init__(self, empty: Path) -> None:
        """`empty`: a folder with nothing in it, the program's working tree."""
        self._empty = empty
        self._known: dict[tuple[str, ...], str] = {}

    async def of(
        self,
        entry: AgentEntry,
        sandbox: port.Sandbox,
        spec: port.SandboxSpec,
        cancel: asyncio.Event,
    ) -> str:
        """`spec` is that of the run to come. "" when the program tells none."""
        if not entry.version_argv:
            return entry.version
        program = _outside(entry.version_argv[0], spec.env.get("PATH", ""))
        key = (entry.name, program, spec.image or "")
        if key not in self._known:
            found = await self._asked(entry, sandbox, spec, cancel)
            if not found:
                return ""
            self._known[key] = found
        return self._known[key]

    async def _asked(
        self,
        entry: AgentEntry,
        sandbox: port.Sandbox,
        spec: port.SandboxSpec,
        cancel: asyncio.Event,
    ) -> str:
        said = bytearray()

        async def keep(chunk: bytes) -> None:
            said.extend(chunk[: ANSWER_BYTES_MAX - len(said)])

        question = replace(
            spec,
            argv=entry.version_argv,
            lower=self._empty,
            extra_lowers=(),
            upper=None,
            work=None,
            files={},
            caches={},
            gateway_socket=None,
            egress_socket=None,
            wall_s=PROBE_S_MAX,
            idle_s=None,
        )
        ran = await sandbox.run(question, on_output=keep, cancel=cancel)
        match ran.outcome:
            case port.CannotStart(why):
                raise Rejected("agent-not-found", f"{entry.name}: {why}; {_remedy(entry)}")
        return version_in(said.decode(errors="replace"))


def version_in(text: str) -> str:
    found = _VERSION.search(text)
    return found[0][:80] if found else ""


def _outside(program: str, path: str) -> str:
    where = shutil.which(program, path=path)
    if where is None:
        return ""
    try:
        status = Path(where).stat()
    except OSError:
        return where
    return f"{where} {status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _remedy(entry: AgentEntry) -> str:
    if entry.install is Install.OWN:
        return f"give the runner a toolchain or an image that has `{entry.version_argv[0]}`"
    return (
        f"`wfhub agent install {entry.name} --into DIR`, then `wfhub up --toolchain DIR`"
        " (TOOLCHAINS of a runner)"
    )
