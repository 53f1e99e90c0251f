"""The state tables: what may happen, what may not, and that nothing is left open."""

import pytest
from wfhub_common.messages import (
    FINAL_TASK_STATES,
    LIVE_ATTEMPT_STATES,
    AttemptState,
    TaskState,
)
from wfhub_scheduler.states import (
    ENDED_AS,
    INFRA_LOSSES_MAX,
    TASK_RULES,
    Effect,
    Facts,
    TaskEvent,
    always,
    attempt_may,
    decide,
)

T, E = TaskState, TaskEvent
ENDS = set(ENDED_AS.values())
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


def test_attempts_only_go_forward() -> None:
    a = AttemptState
    assert attempt_may(a.LEASED, a.RUNNING)
    assert attempt_may(a.RUNNING, a.VERIFYING)
    assert not attempt_may(a.VERIFYING, a.RUNNING)
    assert not attempt_may(a.RUNNING, a.LEASED)
    for state in AttemptState:
        for end in ENDED_AS:
            assert attempt_may(state, end) == (state in LIVE_ATTEMPT_STATES)
