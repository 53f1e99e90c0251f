"""Records of the model: frozen, so that a world is copied cheaply, and how answers are judged."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LIVE = ("leased", "running", "verifying")
FINAL = ("succeeded", "failed", "cancelled")
QUEUED = ("ready", "blocked")
PUBLISH_TRIES_MAX = 8
LOSSES_MAX = 10

Follow = list["Step"]
Step = Callable[[Any], Follow | None]  # of a World; what follows is a later transaction


class Mismatch(AssertionError):
    """An answer, or a state, that the model does not allow."""


@dataclass(frozen=True)
class Maybe:
    """A step that may be left out while commands overlap: what another one holds is skipped."""

    step: Step

    def __call__(self, world: Any) -> Follow | None:
        return self.step(world)


@dataclass(frozen=True)
class Answer:
    """What came back: `value`, or the code of the error."""

    value: Any = None
    error: str = ""


@dataclass(frozen=True)
class Wish:
    """What matters of a task's spec."""

    project: str
    pool: str = "default"
    priority: int = 0
    attempts_max: int = 1
    retry_on: tuple[str, ...] | None = None
    verified: bool = True
    labels: tuple[str, ...] = ()
    later: bool = False  # has a run_at that lies ahead
    queue_s: bool = False  # waits only so long for its first runner
    review: bool = False  # its result waits for a person
    deadline: bool = False  # has one; it lies ahead until the machine says otherwise
    ci: bool = False  # its result changes CI files
    serial: int = 0  # makes two specs differ


@dataclass(frozen=True)
class Unit:
    state: str = "ready"
    tries: int = 0
    losses: int = 0
    waits: bool = False  # its run_at lies ahead
    born: int = 0  # units of one moment share it


@dataclass(frozen=True)
class Task:
    """`agent` None: blocked, and so without a unit."""

    task_id: str
    wish: Wish
    state: str = "ready"
    reason: str = ""
    cancel: bool = False
    stopping: bool = False  # its runner is told to stop
    queue_over: bool = False  # queue_s went by since it was queued
    past: bool = False  # its deadline has passed
    review: str | None = None  # what a person decided
    review_over: bool = False  # review_s went by
    current: str | None = None
    winner: str | None = None
    used: int = 0
    losses: int = 0
    sealed: bool = False
    seal_waits: bool | None = None  # None: not sealing
    agent: Unit | None = field(default_factory=Unit)
    publish: Unit | None = None
    workflow: str | None = None
    counted: bool = False  # its end, by its workflow

    @property
    def unstarted(self) -> bool:
        return self.state in QUEUED and not self.used + self.losses


@dataclass(frozen=True)
class Attempt:
    attempt_id: str
    task_id: str
    kind: str
    number: int
    runner: str
    incarnation: str
    claim_id: str
    state: str = "leased"
    reason: str = ""
    expired: bool = False
    over: str = ""  # the limit that it outlived: no beat renews its lease any more
    token: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE


@dataclass(frozen=True)
class Project:
    project_id: str
    name: str
    limit: int
    weight: int
    queue: int
    paused: bool = False


@dataclass(frozen=True)
class Pool:
    limit: int | None = None
    paused: bool = False


@dataclass(frozen=True)
class Runner:
    incarnation: str
    labels: tuple[str, ...]
    draining: bool = False


@dataclass(frozen=True)
class Node:
    """`needs`: numbers of nodes before it."""

    needs: tuple[int, ...]
    wish: Wish
    all_done: bool = False  # starts however its needs ended
    takes: bool = False  # begins at the branch of the first that it needs; without one it cannot
    stops: bool = True  # its failure ends what has not started: on_failure `fail`


@dataclass(frozen=True)
class Workflow:
    project: str
    nodes: tuple[Node, ...]
    tasks: tuple[str, ...] = ()  # ids, in the order of the nodes
    state: str = "running"
    cancel: bool = False


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Mismatch(what)


def equal(was: object, expected: object, what: str) -> None:
    check(was == expected, f"{what}: {was!r}, the model says {expected!r}")


def same(value: Any, **expected: object) -> None:
    for name, wanted in expected.items():
        equal(getattr(value, name), wanted, f"{type(value).__name__}.{name}")


def ok(answer: Answer) -> Any:
    check(not answer.error, f"refused with {answer.error}, the model allows it")
    return answer.value


def refused(answer: Answer, code: str) -> None:
    equal(answer.error, code, f"the refusal (the answer was {answer.value!r})")
