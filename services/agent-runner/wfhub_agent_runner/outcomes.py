"""Outcomes: what an agent attempt came to, decided from what was observed (pure).

Exit codes lie (an agent may exit 0 after a 401), so the order of evidence is: limits and
cancellation, then whether anything changed, then the gateway's answers, then verification.
An exit code decides only when nothing else speaks: a command that failed and that no
verification vouches for is not published.
"""

from dataclasses import dataclass

from wfhub_common.messages import AttemptState, CommandResult, Verdict, VerdictStatus

from wfhub_agent_runner.sandbox import port

_ERROR_MIN, _SERVER_ERROR_MIN = 400, 500  # HTTP

_UNITS = {"memory": "bytes", "disk": "bytes", "output": "bytes", "cpu": "s of CPU time"}


@dataclass(frozen=True)
class Decision:
    """How an attempt ends. `retryable` False: another try would end the same way."""

    outcome: AttemptState
    reason: str = ""
    message: str = ""
    retryable: bool = True


@dataclass(frozen=True)
class ModelTraffic:
    """What the relay saw of the agent's requests to the gateway."""

    requests: int = 0
    answered: int = 0  # with a 2xx
    last_error: str = ""
    last_status: int = 0  # HTTP, of the last answer


def of_agent_run(
    outcome: port.Outcome,
    *,
    changed: bool,
    traffic: ModelTraffic,
    has_verification: bool,
    lives_off_a_model: bool = False,
    handed_in: bool = False,
) -> Decision | None:
    """A decision that ends the attempt now, or None: go on to verification.

    `lives_off_a_model`: what it did without one answer is not its work, whatever it left and
    whatever its exit code says. Any other command may do without. `handed_in`: it was asked to stop
    and hand in what it had, which is an end like any other.
    """
    if handed_in and isinstance(outcome, port.Cancelled | port.Exited | port.Signalled):
        outcome = port.Exited(0)  # it was made to end: how says nothing of its work
    match outcome:
        case port.Cancelled():
            return Decision(AttemptState.CANCELLED, "cancelled", "stopped as asked")
        case port.CannotStart(message):
            return Decision(AttemptState.FAILED, "agent-cannot-start", message, retryable=False)
        case port.TimedOut(after_s):
            return Decision(
                AttemptState.FAILED,
                "limit:run_s",
                f"the agent ran for {after_s:.0f} s, its limit; raise limits.run_s or ask for less",
            )
        case port.LimitExceeded("idle", idle_s):
            return Decision(
                AttemptState.FAILED,
                "limit:idle",
                f"the agent wrote nothing and asked no model for {idle_s} s; raise limits.idle_s"
                " if it needs longer",
            )
        case port.LimitExceeded(name, figure):
            return Decision(
                AttemptState.FAILED,
                f"limit:{name}",
                f"the agent exceeded its limit of {name}: {figure} {_UNITS.get(name, '')}".rstrip(),
            )
        case port.Exited() | port.Signalled():
            pass
    if lives_off_a_model and traffic.requests and not traffic.answered:
        return _no_model(traffic)
    if not changed:
        return _nothing_changed(outcome, traffic)
    if lives_off_a_model and not has_verification and traffic.last_status >= _ERROR_MIN:
        return _no_model(traffic)
    if outcome != port.Exited(0) and not has_verification:
        return Decision(
            AttemptState.FAILED,
            "agent-failed",
            f"the agent ended with {port.described(outcome)}, and no verification command "
            "can vouch for what it left",
        )
    return None


def _no_model(traffic: ModelTraffic) -> Decision:
    """Refused (the request, the key, the budget: asking again is no use), or not there."""
    refused = _ERROR_MIN <= traffic.last_status < _SERVER_ERROR_MIN
    return Decision(
        AttemptState.FAILED,
        "model-refused" if refused else "model-unavailable",
        f"{'the model refused' if refused else 'no answer from a model'}: {traffic.last_error}",
    )


def _nothing_changed(outcome: port.Outcome, traffic: ModelTraffic) -> Decision:
    if traffic.requests and (not traffic.answered or traffic.last_status >= _ERROR_MIN):
        return _no_model(traffic)
    if outcome != port.Exited(0):
        return Decision(
            AttemptState.FAILED,
            "agent-failed",
            f"the agent ended with {port.described(outcome)} and changed nothing; see its log",
        )
    return Decision(
        AttemptState.FAILED,
        "no-changes",
        "the agent ended without changing a file that git would keep",
    )


def of_set_up(failed: CommandResult) -> Decision:
    what = f"the set-up command {failed.command!r}"
    match failed.outcome:
        case "cancelled":
            return Decision(AttemptState.CANCELLED, "cancelled", "stopped as asked")
        case "cannot-start":
            return Decision(
                AttemptState.FAILED,
                "setup-cannot-start",
                f"{what} could not be started; is the program in the sandbox (PATH, toolchains)"
                " and in the repository?",
                retryable=False,
            )
        case "timed-out":
            return Decision(
                AttemptState.FAILED, "limit:setup_s", f"{what} ran too long; raise limits.setup_s"
            )
        case "exited" | "killed":
            return Decision(
                AttemptState.FAILED,
                "setup-failed",
                f"{what} ended with exit code {failed.exit_code}; see {failed.log}",
            )
        case other:
            figure = f", {failed.figure}" if failed.figure is not None else ""
            message = f"{what} did not end by itself: {other}{figure}"
            return Decision(AttemptState.FAILED, other, message)


def of_verdict(verdict: Verdict) -> Decision:
    match verdict.status:
        case VerdictStatus.PASSED | VerdictStatus.NONE:
            return Decision(AttemptState.WON)
        case VerdictStatus.FAILED:
            failed = next(c for c in verdict.commands if c.exit_code != 0)
            return Decision(
                AttemptState.REJECTED,
                "verification-failed",
                f"verification failed: {failed.command!r} ended with exit code {failed.exit_code}",
            )
        case VerdictStatus.ERROR:
            last = verdict.commands[-1]
            if last.outcome == "cannot-start":
                return Decision(
                    AttemptState.FAILED,
                    "verify-cannot-start",
                    f"the verification command {last.command!r} could not be started; is the "
                    "program in the sandbox (PATH, toolchains) and in the repository?",
                    retryable=False,
                )
            return Decision(
                AttemptState.FAILED,
                f"verify-{last.outcome}",
                f"the verification command {last.command!r} did not end by itself: {last.outcome}"
                + (f", {last.figure}" if last.figure is not None else ""),
            )
