"""The port between the runner and whatever confines a command: spec in, outcome out.

A sandbox runs one argv on a writable layer over a read-only tree at /workspace, without network
but for the sockets it is given, within `limits` and `wall_s`. When `run` returns, every process of
the sandbox is gone, so what it wrote may be read.
Units: seconds (*_s), milliseconds (*_ms), bytes.
Errors: what happens to the command is an Outcome, never an exception; `run` raises only what
`on_output` raises, and CancelledError, both after the sandbox is dead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, assert_never

from wfhub_common.errors import LeaseLost
from wfhub_common.messages import Limits

WORKSPACE = "/workspace"
HOME = "/home/agent"
FILES = "/run/wfhub"  # where files that the agent must not change belong
GATEWAY_PORT = 8090  # on 127.0.0.1 inside, when the spec has a gateway socket
GATEWAY_URL = f"http://127.0.0.1:{GATEWAY_PORT}"
EGRESS_PORT = 8091  # likewise, when the spec has an egress socket
EGRESS_URL = f"http://127.0.0.1:{EGRESS_PORT}"


STOP_GRACE_S = 5.0  # to write what one has: between SIGTERM and SIGKILL


def never() -> float:
    return 0.0


@dataclass(frozen=True)
class SandboxSpec:
    """One run. The tree is `lower` with each of `extra_lowers` laid over it, the last on top.
    `upper` and `work` are folders of one file system, empty or of an earlier run, in the form of
    an overlay's layers; without them what is written is thrown away at the end. `copy`: instead of
    them all a folder that is the workspace, where no layers can be.

    `caches` maps a path below HOME to a host folder: what is written there is thrown away, where it
    can be written at all. `binds` maps a path inside to a host path, read-only. `files` maps a
    path inside to content: read-only below FILES, the agent's own below HOME and /tmp. `image`: one
    of the backend's images by its name; without one, its default.
    """

    argv: tuple[str, ...]
    lower: Path
    limits: Limits
    wall_s: float
    extra_lowers: tuple[Path, ...] = ()
    upper: Path | None = None
    work: Path | None = None
    copy: Path | None = None
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cwd: str = WORKSPACE
    binds: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    caches: Mapping[str, Path] = field(default_factory=lambda: MappingProxyType({}))
    files: Mapping[str, bytes] = field(default_factory=lambda: MappingProxyType({}))
    gateway_socket: Path | None = None
    egress_socket: Path | None = None  # of a proxy, which the environment then names
    idle_s: float | None = None  # ends a run that shows no sign of life for so long
    image: str = ""
    debuggers: bool = False  # its programs may trace each other
    signs: Callable[[], float] = never  # when (time.monotonic) it last showed one beside its output
    # How long it may take to end by itself when it is stopped (`is_told`), asked at that moment.
    grace_s: Callable[[], float] = never


@dataclass(frozen=True)
class Exited:
    code: int


@dataclass(frozen=True)
class Signalled:
    """A signal that was not ours ended the command."""

    signal: int


@dataclass(frozen=True)
class TimedOut:
    after_s: float


@dataclass(frozen=True)
class LimitExceeded:
    """`name` is memory | cpu | disk | inodes | output | idle; `figure` is what was measured."""

    name: str
    figure: int


@dataclass(frozen=True)
class Cancelled:
    pass


@dataclass(frozen=True)
class CannotStart:
    """The command never ran: no such program, or the sandbox itself could not be made."""

    message: str


@dataclass(frozen=True)
class TakenAway(CannotStart):
    """What it ran on went, with it: how the command would have ended is not known."""


Outcome = Exited | Signalled | TimedOut | LimitExceeded | Cancelled | CannotStart


def is_told(outcome: Outcome | None) -> bool:
    """Whether a run that is stopped so hears of it by a SIGTERM first. One that takes more of the
    machine than is its own does not: it is killed at once."""
    match outcome:
        case Cancelled() | TimedOut():
            return True
        case LimitExceeded(name):
            return name == "idle"
    return False


@dataclass(frozen=True)
class SandboxResult:
    """`output_bytes` were passed on; `truncated`: the command wrote more than its limit."""

    outcome: Outcome
    duration_ms: int
    output_bytes: int
    truncated: bool


def refuse_taken_away(outcome: Outcome) -> None:
    """Raises: LeaseLost. Such an attempt is lost with its machine, which is not the task's to
    answer for: its lease runs out, and another begins."""
    if isinstance(outcome, TakenAway):
        raise LeaseLost("sandbox-lost", outcome.message)


OnOutput = Callable[[bytes], Awaitable[None]]


class Sandbox(Protocol):
    @property
    def interpreter(self) -> tuple[str, ...]:
        """The words that start a Python of the runner's version inside."""
        ...

    @property
    def scratch(self) -> Path:
        """A folder of the runner's, on the file system of the layers that specs name."""
        ...

    async def run(
        self, spec: SandboxSpec, *, on_output: OnOutput, cancel: asyncio.Event
    ) -> SandboxResult:
        """stdout and stderr, merged, reach `on_output` in order; stdin is empty."""
        ...

    def describe(self, image: str = "") -> dict[str, Any]:
        """The policy in force, for the proof: backend, version, how each limit is held; of a
        backend with images, which one by its digest. Raises: Rejected for an unknown image."""
        ...


def described(outcome: Outcome) -> str:
    """The outcome as one stable word: exited:<n> | signalled:<n> | timed-out | limit:<name> |
    cancelled | cannot-start."""
    match outcome:
        case Exited(code):
            return f"exited:{code}"
        case Signalled(number):
            return f"signalled:{number}"
        case TimedOut():
            return "timed-out"
        case LimitExceeded(name):
            return f"limit:{name}"
        case Cancelled():
            return "cancelled"
        case CannotStart():
            return "cannot-start"
        case _:
            assert_never(outcome)
