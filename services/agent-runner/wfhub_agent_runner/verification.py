"""Verification: the task's commands on a clean checkout of a commit, without any network.

A command that the shell could not start is an error of the task, not a verdict on the work.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from wfhub_common.messages import CommandResult, Limits, Verdict, VerdictStatus

from wfhub_agent_runner import commands as shell
from wfhub_agent_runner.gitwork.workspaces import Layers
from wfhub_agent_runner.logs import AttemptLog
from wfhub_agent_runner.sandbox import port


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
    within = shell.Surroundings(sandbox, limits, limits.verify_s, env, binds)
    results = await shell.run_all(
        commands, checkout, within, log=log, log_name=log_name, cancel=cancel
    )
    return Verdict(status=_status(results[-1]), commands=results)


def _status(last: CommandResult) -> VerdictStatus:
    if shell.passed(last):
        return VerdictStatus.PASSED
    return VerdictStatus.FAILED if last.outcome in {"exited", "killed"} else VerdictStatus.ERROR
