"""Verification: the task's commands on a clean checkout of a commit, without any network.

A command that the shell could not start is an error of the task, not a verdict on the work.
"""

import asyncio

from wfhub_common.messages import CommandResult, Verdict, VerdictStatus

from wfhub_agent_runner import commands as shell
from wfhub_agent_runner.gitwork.workspaces import Layers
from wfhub_agent_runner.logs import AttemptLog


async def verify(
    commands: tuple[str, ...],
    checkout: Layers,
    within: shell.Surroundings,
    *,
    log: AttemptLog,
    log_name: str,
    cancel: asyncio.Event,
) -> Verdict:
    """Run until the first command that does not pass."""
    if not commands:
        return Verdict(status=VerdictStatus.NONE)
    results = await shell.run_all(
        commands, checkout, within, log=log, log_name=log_name, cancel=cancel
    )
    return Verdict(status=_status(results[-1]), commands=results)


def _status(last: CommandResult) -> VerdictStatus:
    if shell.passed(last):
        return VerdictStatus.PASSED
    return VerdictStatus.FAILED if last.outcome in {"exited", "killed"} else VerdictStatus.ERROR
