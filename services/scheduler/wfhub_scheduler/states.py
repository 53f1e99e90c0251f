"""The state machine of tasks and attempts: one table each, read top down, first match decides.

A task's row is (state, event) → guard, next state, effect, reason; `decide` finds it. What is not
in the table does not happen: `decide` answers None and the caller refuses. Pure; no I/O.
`reason` None keeps the reason that came with the event.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from wfhub_common.messages import LIVE_ATTEMPT_STATES, AttemptState, TaskState

INFRA_LOSSES_MAX = 10  # attempts lost with their runner, a unit
PUBLISH_TRIES_MAX = 8  # of a publication that reached no outcome


class TaskEvent(StrEnum):
    CLAIMED = "claimed"
    WON = "won"
    REJECTED = "rejected"
    FAILED = "failed"
    STOPPED = "stopped"  # the runner ended the attempt as cancelled
    LOST = "lost"  # lease expired, or the runner started anew
    SEALED = "sealed"
    SEAL_REFUSED = "seal-refused"
    CANCEL = "cancel"


class Effect(StrEnum):
    """What else the transition does; each is one branch in transitions.py."""

    LEASE = "lease"  # the unit is leased to the new attempt
    TELL = "tell"  # the runner is told of the cancel with its next reply
    RETRY = "retry"  # the unit is ready again after a backoff; a try is used up
    REQUEUE = "requeue"  # the unit is ready again; only infrastructure was lost
    SEAL = "seal"  # the unit is done; a proof is asked for
    PUBLISH = "publish"  # a publish unit is made
    FINISH = "finish"  # the unit is done, the task final
    END = "end"  # the unit is dead, the task final


@dataclass(frozen=True)
class Facts:
    """What the guards look at. `tries` and `losses` are the unit's, this event included."""

    cancel_requested: bool = False
    retryable: bool = True
    tries: int = 0
    tries_max: int = 1
    losses: int = 0


Guard = Callable[[Facts], bool]


def always(_: Facts) -> bool:
    return True


def cancel_asked(facts: Facts) -> bool:
    return facts.cancel_requested


def tries_left(facts: Facts) -> bool:
    return facts.retryable and facts.tries < facts.tries_max


def losses_left(facts: Facts) -> bool:
    return facts.losses < INFRA_LOSSES_MAX


@dataclass(frozen=True)
class Rule:
    state: TaskState
    event: TaskEvent
    guard: Guard
    to: TaskState
    effect: Effect
    reason: str | None = None


T, E, F = TaskState, TaskEvent, Effect

TASK_RULES: tuple[Rule, ...] = (
    #    in state      on            if            goes to       and         because
    Rule(T.READY, E.CLAIMED, always, T.RUNNING, F.LEASE),
    Rule(T.READY, E.CANCEL, always, T.CANCELLED, F.END),
    #
    Rule(T.RUNNING, E.CANCEL, always, T.RUNNING, F.TELL),
    Rule(T.RUNNING, E.WON, cancel_asked, T.CANCELLED, F.END, "cancelled"),
    Rule(T.RUNNING, E.WON, always, T.SEALING, F.SEAL),
    Rule(T.RUNNING, E.REJECTED, cancel_asked, T.CANCELLED, F.END, "cancelled"),
    Rule(T.RUNNING, E.REJECTED, tries_left, T.READY, F.RETRY),
    Rule(T.RUNNING, E.REJECTED, always, T.FAILED, F.END),
    Rule(T.RUNNING, E.FAILED, cancel_asked, T.CANCELLED, F.END, "cancelled"),
    Rule(T.RUNNING, E.FAILED, tries_left, T.READY, F.RETRY),
    Rule(T.RUNNING, E.FAILED, always, T.FAILED, F.END),
    Rule(T.RUNNING, E.STOPPED, cancel_asked, T.CANCELLED, F.END, "cancelled"),
    Rule(T.RUNNING, E.STOPPED, always, T.FAILED, F.END),
    Rule(T.RUNNING, E.LOST, cancel_asked, T.CANCELLED, F.END, "cancelled"),
    Rule(T.RUNNING, E.LOST, losses_left, T.READY, F.REQUEUE),
    Rule(T.RUNNING, E.LOST, always, T.FAILED, F.END, "infrastructure"),
    #
    Rule(T.SEALING, E.CANCEL, always, T.CANCELLED, F.END),
    Rule(T.SEALING, E.SEALED, always, T.PUBLISHING, F.PUBLISH),
    Rule(T.SEALING, E.SEAL_REFUSED, always, T.FAILED, F.END),
    # Publishing has no cancel: it leaves only by what was observed, or by a cap on tries.
    Rule(T.PUBLISHING, E.CLAIMED, always, T.PUBLISHING, F.LEASE),
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


# An attempt only goes forward; how it ended is what the task's event is named after.
ATTEMPT_STEPS: dict[AttemptState, tuple[AttemptState, ...]] = {
    AttemptState.LEASED: (AttemptState.RUNNING, AttemptState.VERIFYING),
    AttemptState.RUNNING: (AttemptState.VERIFYING,),
    AttemptState.VERIFYING: (),
}

ENDED_AS: dict[AttemptState, TaskEvent] = {
    AttemptState.WON: E.WON,
    AttemptState.REJECTED: E.REJECTED,
    AttemptState.FAILED: E.FAILED,
    AttemptState.CANCELLED: E.STOPPED,
    AttemptState.LOST: E.LOST,
}


def attempt_may(state: AttemptState, to: AttemptState) -> bool:
    if state not in LIVE_ATTEMPT_STATES:
        return False
    return to in ENDED_AS or to in ATTEMPT_STEPS[state]
