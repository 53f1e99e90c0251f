"""The state machine of tasks and attempts: one table each, read top down, first match decides.

A row is: in this state, on this event, if this guard holds → next state, effect, reason. What is
not in a table does not happen: `decide` and `decide_attempt` answer None and the caller refuses.
Every transition is written in the transaction that decided it, under the task's row lock
(transitions.py); docs/architecture.md shows both tables. Pure; no I/O.
`reason` None keeps the reason that came with the event.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from wfhub_common.messages import AttemptState, ReviewDecision, TaskState

INFRA_LOSSES_MAX = 10  # attempts lost with their runner, a unit
PUBLISH_TRIES_MAX = 8  # of a publication that reached no outcome
REVIEW_S = 7 * 86_400  # for a person to decide, where the task itself asks for no review


class TaskEvent(StrEnum):
    RELEASED = "released"  # its workflow lets it start
    SKIPPED = "skipped"  # its workflow does without it; how that came is the reason
    UNRESOLVABLE = "unresolvable"  # the results of others cannot be filled into its spec
    CLAIMED = "claimed"
    WON = "won"
    REJECTED = "rejected"
    FAILED = "failed"
    STOPPED = "stopped"  # the runner ended the attempt as cancelled
    LOST = "lost"  # lease over, or the runner started anew
    SEALED = "sealed"
    SEAL_REFUSED = "seal-refused"
    APPROVED = "approved"  # by a person, as is the next
    DECLINED = "declined"
    REVIEW_TIMEOUT = "review-timeout"  # review_s (else REVIEW_S) went by, or deadline_at
    CANCEL = "cancel"
    QUEUE_TIMEOUT = "queue-timeout"  # queue_s went by
    DEADLINE = "deadline"  # deadline_at went by


class Effect(StrEnum):
    """What else the transition does (claim.py leases, creation.py makes agent units, the rest is
    in transitions.py)."""

    ENQUEUE = "enqueue"  # the agent unit is made, ready
    LEASE = "lease"  # the unit is leased to a new attempt
    ASK = "ask"  # a person has review_s, else REVIEW_S, to decide
    TELL = "tell"  # the runner is told to stop with its next reply, and has a grace to do so
    RETRY = "retry"  # the unit is ready again after a backoff; a try is used up
    REQUEUE = "requeue"  # the unit is ready again; only infrastructure was lost
    SEAL = "seal"  # the unit is done; a proof is asked for
    PUBLISH = "publish"  # a publish unit is made
    FINISH = "finish"  # the unit is done, the task final
    END = "end"  # the unit is dead, the task final


class Facts(NamedTuple):
    """What the guards look at. `tries` and `losses` are the unit's, this event included."""

    cancel_requested: bool = False
    deadline_passed: bool = False
    review_wanted: bool = False
    ci_files_changed: bool = False  # and its project wants a person to see that
    retryable: bool = True  # for the runner, and by the task's policy
    tries: int = 0
    tries_max: int = 1
    losses: int = 0


def always(_: Facts) -> bool:
    return True


def cancel_asked(facts: Facts) -> bool:
    return facts.cancel_requested


def past_deadline(facts: Facts) -> bool:
    return facts.deadline_passed


def in_time(facts: Facts) -> bool:
    return not facts.deadline_passed


def review_wanted(facts: Facts) -> bool:
    return facts.review_wanted


def ci_files_changed(facts: Facts) -> bool:
    return facts.ci_files_changed


def never_tried(facts: Facts) -> bool:
    return facts.tries + facts.losses == 0


def tries_left(facts: Facts) -> bool:
    return facts.retryable and facts.tries < facts.tries_max


def losses_left(facts: Facts) -> bool:
    return facts.losses < INFRA_LOSSES_MAX


@dataclass(frozen=True)
class Rule:
    state: TaskState
    event: TaskEvent
    guard: Callable[[Facts], bool]
    to: TaskState
    effect: Effect
    reason: str | None = None


T, E, F = TaskState, TaskEvent, Effect

TASK_RULES: tuple[Rule, ...] = (
    #    in state      on               if             goes to       and         because
    Rule(T.BLOCKED, E.RELEASED, always, T.READY, F.ENQUEUE),
    Rule(T.BLOCKED, E.SKIPPED, always, T.CANCELLED, F.END),
    Rule(T.BLOCKED, E.UNRESOLVABLE, always, T.FAILED, F.END, "unresolvable"),
    Rule(T.BLOCKED, E.CANCEL, always, T.CANCELLED, F.END, "cancelled"),
    Rule(T.BLOCKED, E.DEADLINE, past_deadline, T.FAILED, F.END, "deadline"),
    #
    Rule(T.READY, E.CLAIMED, always, T.RUNNING, F.LEASE, ""),
    Rule(T.READY, E.SKIPPED, always, T.CANCELLED, F.END),
    Rule(T.READY, E.CANCEL, always, T.CANCELLED, F.END, "cancelled"),
    Rule(T.READY, E.QUEUE_TIMEOUT, never_tried, T.FAILED, F.END, "queue-timeout"),
    Rule(T.READY, E.DEADLINE, past_deadline, T.FAILED, F.END, "deadline"),
    #
    Rule(T.RUNNING, E.CANCEL, always, T.RUNNING, F.TELL, ""),
    Rule(T.RUNNING, E.DEADLINE, past_deadline, T.RUNNING, F.TELL, ""),
    Rule(T.RUNNING, E.WON, cancel_asked, T.CANCELLED, F.END, "cancelled"),
    Rule(T.RUNNING, E.WON, past_deadline, T.FAILED, F.END, "deadline"),
    Rule(T.RUNNING, E.WON, always, T.SEALING, F.SEAL),
    Rule(T.RUNNING, E.REJECTED, cancel_asked, T.CANCELLED, F.END, "cancelled"),
    Rule(T.RUNNING, E.REJECTED, past_deadline, T.FAILED, F.END, "deadline"),
    Rule(T.RUNNING, E.REJECTED, tries_left, T.READY, F.RETRY),
    Rule(T.RUNNING, E.REJECTED, always, T.FAILED, F.END),
    Rule(T.RUNNING, E.FAILED, cancel_asked, T.CANCELLED, F.END, "cancelled"),
    Rule(T.RUNNING, E.FAILED, past_deadline, T.FAILED, F.END, "deadline"),
    Rule(T.RUNNING, E.FAILED, tries_left, T.READY, F.RETRY),
    Rule(T.RUNNING, E.FAILED, always, T.FAILED, F.END),
    Rule(T.RUNNING, E.STOPPED, cancel_asked, T.CANCELLED, F.END, "cancelled"),
    Rule(T.RUNNING, E.STOPPED, past_deadline, T.FAILED, F.END, "deadline"),
    Rule(T.RUNNING, E.STOPPED, always, T.FAILED, F.END),
    Rule(T.RUNNING, E.LOST, cancel_asked, T.CANCELLED, F.END, "cancelled"),
    Rule(T.RUNNING, E.LOST, past_deadline, T.FAILED, F.END, "deadline"),
    Rule(T.RUNNING, E.LOST, losses_left, T.READY, F.REQUEUE),
    Rule(T.RUNNING, E.LOST, always, T.FAILED, F.END, "infrastructure"),
    #
    Rule(T.SEALING, E.CANCEL, always, T.CANCELLED, F.END, "cancelled"),
    Rule(T.SEALING, E.DEADLINE, past_deadline, T.FAILED, F.END, "deadline"),
    Rule(T.SEALING, E.SEALED, past_deadline, T.FAILED, F.END, "deadline"),
    Rule(T.SEALING, E.SEALED, ci_files_changed, T.REVIEW, F.ASK, "ci-files-changed"),
    Rule(T.SEALING, E.SEALED, review_wanted, T.REVIEW, F.ASK),
    Rule(T.SEALING, E.SEALED, always, T.PUBLISHING, F.PUBLISH),
    Rule(T.SEALING, E.SEAL_REFUSED, always, T.FAILED, F.END),
    #
    Rule(T.REVIEW, E.APPROVED, in_time, T.PUBLISHING, F.PUBLISH, ""),
    Rule(T.REVIEW, E.DECLINED, always, T.FAILED, F.END, "review-declined"),
    Rule(T.REVIEW, E.REVIEW_TIMEOUT, past_deadline, T.FAILED, F.END, "deadline"),
    Rule(T.REVIEW, E.REVIEW_TIMEOUT, always, T.FAILED, F.END, "review-timeout"),
    Rule(T.REVIEW, E.CANCEL, always, T.CANCELLED, F.END, "cancelled"),
    # Publishing has no cancel and no deadline: it leaves only by what was observed, or by a cap.
    Rule(T.PUBLISHING, E.CLAIMED, always, T.PUBLISHING, F.LEASE, ""),
    Rule(T.PUBLISHING, E.WON, always, T.SUCCEEDED, F.FINISH, ""),
    Rule(T.PUBLISHING, E.REJECTED, always, T.FAILED, F.END),
    Rule(T.PUBLISHING, E.FAILED, tries_left, T.PUBLISHING, F.RETRY),
    Rule(T.PUBLISHING, E.FAILED, always, T.FAILED, F.END, "publish-unreachable"),
    Rule(T.PUBLISHING, E.STOPPED, tries_left, T.PUBLISHING, F.RETRY),
    Rule(T.PUBLISHING, E.STOPPED, always, T.FAILED, F.END, "publish-unreachable"),
    Rule(T.PUBLISHING, E.LOST, losses_left, T.PUBLISHING, F.REQUEUE),
    Rule(T.PUBLISHING, E.LOST, always, T.FAILED, F.END, "infrastructure"),
)


def decide(state: TaskState, event: TaskEvent, facts: Facts) -> Rule | None:
    """The rule that holds, or None: this event changes nothing in this state."""
    for rule in TASK_RULES:
        if rule.state == state and rule.event == event and rule.guard(facts):
            return rule
    return None


class AttemptEvent(StrEnum):
    STARTED = "report: running"
    VERIFIES = "report: verifying"
    WON = "complete: won"
    REJECTED = "complete: rejected"
    FAILED = "complete: failed"
    STOPPED = "complete: cancelled"
    LEASE_OVER = "lease over"
    RUNNER_ANEW = "runner registered anew"


class AttemptFacts(NamedTuple):
    held: bool  # the task's current attempt, and it is its own runner that speaks
    lease_over: bool = False
    other_process: bool = False  # its runner's process is another one by now


def held(facts: AttemptFacts) -> bool:
    return facts.held


def held_too_long(facts: AttemptFacts) -> bool:
    return facts.held and facts.lease_over


def held_by_another_process(facts: AttemptFacts) -> bool:
    return facts.held and facts.other_process


@dataclass(frozen=True)
class AttemptRule:
    """`then` is what the task is told; with it the attempt's place below the limits is free."""

    states: tuple[AttemptState, ...]
    event: AttemptEvent
    guard: Callable[[AttemptFacts], bool]
    to: AttemptState
    then: TaskEvent | None = None


A, N = AttemptState, AttemptEvent
LIVE = (A.LEASED, A.RUNNING, A.VERIFYING)

# A claim makes an attempt, leased. It only goes forward, and what has ended stays as it ended.
ATTEMPT_RULES: tuple[AttemptRule, ...] = (
    #           in state    on            if             goes to     and tells its task
    AttemptRule((A.LEASED,), N.STARTED, held, A.RUNNING),
    AttemptRule((A.LEASED, A.RUNNING), N.VERIFIES, held, A.VERIFYING),
    AttemptRule(LIVE, N.WON, held, A.WON, E.WON),
    AttemptRule(LIVE, N.REJECTED, held, A.REJECTED, E.REJECTED),
    AttemptRule(LIVE, N.FAILED, held, A.FAILED, E.FAILED),
    AttemptRule(LIVE, N.STOPPED, held, A.CANCELLED, E.STOPPED),
    AttemptRule(LIVE, N.LEASE_OVER, held_too_long, A.LOST, E.LOST),
    AttemptRule(LIVE, N.RUNNER_ANEW, held_by_another_process, A.LOST, E.LOST),
)


def decide_attempt(
    state: AttemptState, event: AttemptEvent, facts: AttemptFacts
) -> AttemptRule | None:
    """The rule that holds, or None: this event changes nothing in this state."""
    for rule in ATTEMPT_RULES:
        if state in rule.states and rule.event == event and rule.guard(facts):
            return rule
    return None


COMPLETED_AS: dict[AttemptState, AttemptEvent] = {
    A.WON: N.WON,
    A.REJECTED: N.REJECTED,
    A.FAILED: N.FAILED,
    A.CANCELLED: N.STOPPED,
}
REPORTED_AS: dict[AttemptState, AttemptEvent] = {A.RUNNING: N.STARTED, A.VERIFYING: N.VERIFIES}
REVIEWED_AS: dict[ReviewDecision, TaskEvent] = {
    ReviewDecision.APPROVED: E.APPROVED,
    ReviewDecision.DECLINED: E.DECLINED,
}
