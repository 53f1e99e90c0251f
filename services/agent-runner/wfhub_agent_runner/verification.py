"""Verification: the task's commands, each in a fresh sandbox, on a clean checkout of a commit.

The commands share one writable layer (a build step may prepare the next) but no process, and
have no way to the gateway. A command is run by `sh -c`; exit codes 126 and 127 mean that the
shell could not start it, which is an error of the task, not a verdict on the work.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from wfhub_common.messages import CommandResult, Limits, Verdict, VerdictStatus

from wfhub_agent_runner.gitwork.workspaces import Layers
from wfhub_agent_runner.logs import AttemptLog
from wfhub_agent_runner.sandbox import port

_CANNOT_START_CODES = {126, 127}  # POSIX: found but not executable, not found


async def verify(
    commands: tuple[str, ...],
    checkout: Layers,
    *,
    sandbox: port.Sandbox,
    limits: Limits,
    env: Mapping[str, str],
    binds: Mapping[str, Path],
    log: AttemptLog,
    log_name: str,
    cancel: asyncio.Event,
) -> Verdict:
    """Run until the first command that does not pass."""
    if not commands:
        return Verdict(status=VerdictStatus.NONE)
    results: list[CommandResult] = []
    for command in commands:
        await log.line(f"$ {command}")
        spec = port.SandboxSpec(
            argv=("/bin/sh", "-c", command),
            lower=checkout.lower_dirs[0],
            extra_lowers=checkout.lower_dirs[1:],
            upper=checkout.upper,
            work=checkout.work,
            limits=limits,
            wall_s=limits.verify_s,
            env=env,
            binds=binds,
        )
        ran = await sandbox.run(spec, on_output=log.write, cancel=cancel)
        result = _result(command, ran, log_name)
        await log.line(f"[{result.outcome}, exit code {result.exit_code}]")
        results.append(result)
        status = _status(result)
        if status is not VerdictStatus.PASSED:
            return Verdict(status=status, commands=tuple(results))
    return Verdict(status=VerdictStatus.PASSED, commands=tuple(results))


def _result(command: str, ran: port.SandboxResult, log_name: str) -> CommandResult:
    code: int | None = None
    match ran.outcome:
        case port.Exited(code) if code in _CANNOT_START_CODES:
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
        duration_ms=ran.duration_ms,
        log=log_name,
    )


def _status(result: CommandResult) -> VerdictStatus:
    if result.outcome in {"exited", "killed"}:
        return VerdictStatus.PASSED if result.exit_code == 0 else VerdictStatus.FAILED
    return VerdictStatus.ERROR
