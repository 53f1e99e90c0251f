"""The state tables: what may happen, what may not, and that nothing is left open."""

import pytest
from wfhub_common.messages import (
    FINAL_TASK_STATES,
    LIVE_ATTEMPT_STATES,
    AttemptState,
    TaskState,
)
from wfhub_scheduler.states import (
    ATTEMPT_RULES,
    INFRA_LOSSES_MAX,
    TASK_RULES,
    AttemptEvent,
    AttemptFacts,
    Effect,
    Facts,
    TaskEvent,
    always,
    decide,
    decide_attempt,
)

T, E = TaskState, TaskEvent
ENDS = {rule.then for rule in ATTEMPT_RULES if rule.then is not None}
WORKED_ON = (T.RUNNING, T.PUBLISHING)


def went(state: TaskState, event: TaskEvent, **facts: object) -> tuple[TaskState, str | None]:
    rule = decide(state, event, Facts(**facts))  # type: ignore[arg-type]  # fields by name
    assert rule is not None
    return rule.to, rule.reason


@pytest.mark.parametrize("state", sorted(FINAL_TASK_STATES))
@pytest.mark.parametrize("event", list(E))
def test_nothing_leaves_a_final_state(state: TaskState, event: TaskEvent) -> None:
    assert decide(state, event, Facts()) is None


@pytest.mark.parametrize("event", sorted(ENDS))
@pytest.mark.parametrize("state", WORKED_ON)
def test_every_end_of_an_attempt_leads_somewhere(state: TaskState, event: TaskEvent) -> None:
    """The last rule of a pair has no guard, so that no outcome is left without an answer."""
    rules = [rule for rule in TASK_RULES if (rule.state, rule.event) == (state, event)]
    assert rules[-1].guard is always
    assert all(rule.guard is not always for rule in rules[:-1])


def test_publishing_cannot_be_cancelled() -> None:
    assert decide(T.PUBLISHING, E.CANCEL, Facts()) is None


def test_a_finished_unit_and_a_final_state_go_together() -> None:
    for rule in TASK_RULES:
        assert (rule.to in FINAL_TASK_STATES) == (rule.effect in (Effect.FINISH, Effect.END))


def test_a_failed_attempt_is_tried_again_while_tries_are_left() -> None:
    assert went(T.RUNNING, E.FAILED, tries=1, tries_max=2) == (T.READY, None)
    assert went(T.RUNNING, E.FAILED, tries=2, tries_max=2) == (T.FAILED, None)


def test_what_another_attempt_cannot_mend_is_not_tried_again() -> None:
    assert went(T.RUNNING, E.REJECTED, tries=1, tries_max=5, retryable=False)[0] is T.FAILED


def test_a_lost_attempt_uses_up_losses_not_tries() -> None:
    assert went(T.RUNNING, E.LOST, tries=9, losses=1)[0] is T.READY
    assert went(T.RUNNING, E.LOST, losses=INFRA_LOSSES_MAX) == (T.FAILED, "infrastructure")
    assert went(T.PUBLISHING, E.LOST, losses=INFRA_LOSSES_MAX)[0] is T.FAILED


@pytest.mark.parametrize("event", sorted(ENDS))
def test_a_cancel_that_was_accepted_wins_over_any_end(event: TaskEvent) -> None:
    to, reason = went(T.RUNNING, event, cancel_requested=True, tries_max=9)
    assert (to, reason) == (T.CANCELLED, "cancelled")


def test_a_publication_without_an_outcome_is_tried_up_to_its_cap() -> None:
    assert went(T.PUBLISHING, E.FAILED, tries=1, tries_max=8)[0] is T.PUBLISHING
    assert went(T.PUBLISHING, E.FAILED, tries=8, tries_max=8) == (T.FAILED, "publish-unreachable")


@pytest.mark.parametrize("event", sorted(ENDS))
def test_past_the_deadline_nothing_is_tried_again(event: TaskEvent) -> None:
    to, reason = went(T.RUNNING, event, deadline_passed=True, tries_max=9)
    assert (to, reason) == (T.FAILED, "deadline")
    assert went(T.RUNNING, event, deadline_passed=True, cancel_requested=True)[0] is T.CANCELLED


@pytest.mark.parametrize("state", [T.BLOCKED, T.READY, T.SEALING])
def test_a_deadline_ends_what_no_runner_holds(state: TaskState) -> None:
    assert went(state, E.DEADLINE, deadline_passed=True) == (T.FAILED, "deadline")
    assert decide(state, E.DEADLINE, Facts()) is None


def test_a_deadline_stops_a_live_attempt_and_lets_a_publication_go_on() -> None:
    rule = decide(T.RUNNING, E.DEADLINE, Facts(deadline_passed=True))
    assert rule is not None
    assert (rule.to, rule.effect) == (T.RUNNING, Effect.TELL)
    assert decide(T.PUBLISHING, E.DEADLINE, Facts(deadline_passed=True)) is None
    assert went(T.SEALING, E.SEALED, deadline_passed=True) == (T.FAILED, "deadline")


def test_only_a_task_that_was_never_tried_can_wait_for_too_long() -> None:
    assert went(T.READY, E.QUEUE_TIMEOUT) == (T.FAILED, "queue-timeout")
    assert decide(T.READY, E.QUEUE_TIMEOUT, Facts(tries=1)) is None
    assert decide(T.READY, E.QUEUE_TIMEOUT, Facts(losses=1)) is None
    assert decide(T.RUNNING, E.QUEUE_TIMEOUT, Facts()) is None


A, N = AttemptState, AttemptEvent
HELD = AttemptFacts(held=True, lease_over=True, other_process=True)


def became(state: AttemptState, event: AttemptEvent) -> AttemptState | None:
    rule = decide_attempt(state, event, HELD)
    return rule and rule.to


def test_attempts_only_go_forward() -> None:
    assert became(A.LEASED, N.STARTED) is A.RUNNING
    assert became(A.LEASED, N.VERIFIES) is A.VERIFYING
    assert became(A.RUNNING, N.VERIFIES) is A.VERIFYING
    assert became(A.VERIFYING, N.STARTED) is None


@pytest.mark.parametrize("event", list(AttemptEvent))
@pytest.mark.parametrize("state", list(AttemptState))
def test_what_has_ended_stays_and_what_is_not_held_changes_nothing(
    state: AttemptState, event: AttemptEvent
) -> None:
    if state not in LIVE_ATTEMPT_STATES:
        assert became(state, event) is None
    elif event not in (N.STARTED, N.VERIFIES):
        assert became(state, event) not in {None, *LIVE_ATTEMPT_STATES}
    assert decide_attempt(state, event, AttemptFacts(held=False, lease_over=True)) is None


def test_a_lease_ends_by_time_or_by_its_runners_next_process_alone() -> None:
    assert decide_attempt(A.RUNNING, N.LEASE_OVER, AttemptFacts(held=True)) is None
    assert decide_attempt(A.RUNNING, N.RUNNER_ANEW, AttemptFacts(held=True)) is None
