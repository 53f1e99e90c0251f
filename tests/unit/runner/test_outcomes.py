"""An outcome comes from what was observed; an exit code alone is not evidence."""

import pytest
from wfhub_agent_runner import outcomes
from wfhub_agent_runner.outcomes import ModelTraffic
from wfhub_agent_runner.sandbox import port
from wfhub_common.messages import AttemptState, CommandResult, Verdict, VerdictStatus

SILENT = ModelTraffic()


def of_run(outcome: port.Outcome, **observed: object) -> outcomes.Decision | None:
    defaults: dict[str, object] = {
        "changed": True,
        "traffic": SILENT,
        "has_verification": True,
    }
    return outcomes.of_agent_run(outcome, **{**defaults, **observed})  # type: ignore[arg-type]


def test_exit_zero_without_changes_is_no_success() -> None:
    decision = of_run(port.Exited(0), changed=False)
    assert decision is not None
    assert (decision.outcome, decision.reason) == (AttemptState.FAILED, "no-changes")


def test_exit_zero_after_a_refused_model_names_the_model() -> None:
    traffic = ModelTraffic(requests=3, answered=0, last_error="401 bad key")
    decision = of_run(port.Exited(0), changed=False, traffic=traffic)
    assert decision is not None
    assert decision.reason == "model-unavailable"
    assert "401 bad key" in decision.message


def test_what_lives_off_a_model_did_nothing_without_one_whatever_it_left() -> None:
    traffic = ModelTraffic(requests=3, answered=0, last_error="401: bad key", last_status=401)
    decision = of_run(port.Exited(0), traffic=traffic, lives_off_a_model=True)
    assert decision is not None
    assert decision.reason == "model-refused"
    assert of_run(port.Exited(0), traffic=traffic) is None, "a command may do without"


@pytest.mark.parametrize(("status", "reason"), [(429, "model-refused"), (502, "model-unavailable")])
def test_a_model_that_failed_at_the_end_needs_a_verification_to_vouch(
    status: int, reason: str
) -> None:
    traffic = ModelTraffic(requests=3, answered=2, last_error="no", last_status=status)
    decision = of_run(
        port.Exited(0), traffic=traffic, lives_off_a_model=True, has_verification=False
    )
    assert decision is not None
    assert decision.reason == reason
    assert of_run(port.Exited(0), traffic=traffic, lives_off_a_model=True) is None


def test_what_was_handed_in_is_a_result_like_any_other() -> None:
    assert of_run(port.Cancelled(), handed_in=True) is None
    decision = of_run(port.Cancelled(), handed_in=True, changed=False)
    assert decision is not None
    assert decision.reason == "no-changes"


def test_a_failed_command_that_nothing_vouches_for_is_not_published() -> None:
    decision = of_run(port.Exited(1), has_verification=False)
    assert decision is not None
    assert decision.reason == "agent-failed"


def test_a_failed_command_may_be_vouched_for_by_verification() -> None:
    assert of_run(port.Exited(3)) is None


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (port.TimedOut(5.0), "limit:run_s"),
        (port.LimitExceeded("memory", 9), "limit:memory"),
        (port.Cancelled(), "cancelled"),
        (port.CannotStart("no such program"), "agent-cannot-start"),
    ],
)
def test_limits_and_cancellation_end_an_attempt_whatever_changed(
    outcome: port.Outcome, reason: str
) -> None:
    decision = of_run(outcome)
    assert decision is not None
    assert decision.reason == reason


def _verdict(status: VerdictStatus, code: int | None, outcome: str) -> Verdict:
    result = CommandResult(
        command="pytest", exit_code=code, outcome=outcome, duration_ms=1, log="verify.log"
    )
    return Verdict(status=status, commands=(result,))


def test_a_failed_verification_rejects_and_a_broken_command_is_the_tasks_fault() -> None:
    failed = outcomes.of_verdict(_verdict(VerdictStatus.FAILED, 1, "exited"))
    assert (failed.outcome, failed.reason) == (AttemptState.REJECTED, "verification-failed")
    broken = outcomes.of_verdict(_verdict(VerdictStatus.ERROR, 127, "cannot-start"))
    assert (broken.reason, broken.retryable) == ("verify-cannot-start", False)


def test_an_idle_agent_is_told_by_its_limit() -> None:
    decision = of_run(port.LimitExceeded("idle", 30))
    assert decision is not None
    assert (decision.outcome, decision.reason) == (AttemptState.FAILED, "limit:idle")
    assert decision.retryable


def test_an_exceeded_limit_is_told_with_its_figure_and_unit() -> None:
    decision = of_run(port.LimitExceeded("cpu", 90))
    assert decision is not None
    assert decision.reason == "limit:cpu"
    assert decision.message == "the agent exceeded its limit of cpu: 90 s of CPU time"


@pytest.mark.parametrize("name", ["memory", "cpu", "disk"])
def test_a_command_that_exceeded_a_limit_is_told_with_its_figure(name: str) -> None:
    result = CommandResult(
        command="make",
        exit_code=None,
        outcome=f"limit:{name}",
        figure=1234,
        duration_ms=5,
        log="setup.log",
    )
    assert outcomes.of_set_up(result).message.endswith(f"limit:{name}, 1234")
    verdict = Verdict(status=VerdictStatus.ERROR, commands=(result,))
    decision = outcomes.of_verdict(verdict)
    assert (decision.reason, decision.message[-6:]) == (f"verify-limit:{name}", ", 1234")
