"""Shell commands of a task, one after the other, each in a fresh sandbox on one writable layer.

They share the layer (one may prepare the next) but no process. A command is run by `sh -c`; exit
codes 126 and 127 mean that the shell could not start it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wfhub_common.messages import CommandResult, Limits

from wfhub_agent_runner.gitwork.workspaces import Layers
from wfhub_agent_runner.logs import AttemptLog
from wfhub_agent_runner.sandbox import port

CANNOT_START_CODES = {126, 127}  # POSIX: found but not executable, not found


@dataclass(frozen=True)
class Surroundings:
    """What each of the commands runs in. `wall_s`: of each of them."""

    sandbox: port.Sandbox
    limits: Limits
    wall_s: float
    env: Mapping[str, str]
    binds: Mapping[str, Path]
    caches: Mapping[str, Path]
    egress_socket: Path | None = None
    image: str = ""
    debuggers: bool = False


async def run_all(
    commands: tuple[str, ...],
    checkout: Layers,
    within: Surroundings,
    *,
    log: AttemptLog,
    log_name: str,
    cancel: asyncio.Event,
) -> tuple[CommandResult, ...]:
    """Until the first that does not exit with 0; it is the last of the results."""
    results: list[CommandResult] = []
    for command in commands:
        await log.line(f"$ {command}")
        spec = port.SandboxSpec(
            argv=("/bin/sh", "-c", command),
            lower=checkout.lower_dirs[0],
            extra_lowers=checkout.lower_dirs[1:],
            upper=checkout.upper,
            work=checkout.work,
            copy=checkout.copy,
            limits=within.limits,
            wall_s=within.wall_s,
            env=within.env,
            binds=within.binds,
            caches=within.caches,
            egress_socket=within.egress_socket,
            image=within.image,
            debuggers=within.debuggers,
        )
        ran = await within.sandbox.run(spec, on_output=log.write, cancel=cancel)
        port.refuse_taken_away(ran.outcome)
        result = _result(command, ran, log_name)
        await log.line(f"[{result.outcome}, exit code {result.exit_code}]")
        results.append(result)
        if not passed(result):
            break
    return tuple(results)


def passed(result: CommandResult) -> bool:
    return result.outcome == "exited" and result.exit_code == 0


def _result(command: str, ran: port.SandboxResult, log_name: str) -> CommandResult:
    code: int | None = None
    match ran.outcome:
        case port.Exited(code) if code in CANNOT_START_CODES:
            outcome = "cannot-start"
        case port.Exited(code):
            outcome = "exited"
        case port.Signalled(number):
            outcome, code = "killed", 128 + number
        case other:
            outcome = port.described(other)
    return CommandResult(
        command=command,
        exit_code=code,
        outcome=outcome,
        figure=ran.outcome.figure if isinstance(ran.outcome, port.LimitExceeded) else None,
        duration_ms=ran.duration_ms,
        log=log_name,
    )
