"""Who is stopped is told first, and has a grace to write what it has; in every backend here."""

import asyncio
import os
import time
from pathlib import Path

import pytest
import unprivileged
from sandbox_lab import Lab, Ran, processes_with
from wfhub_agent_runner.sandbox.port import Cancelled, LimitExceeded, Outcome, TimedOut
from wfhub_common.messages import Limits

GRACE_S = 20.0  # more than any of these takes, but for who does not listen
SOON_S = 15.0
# A shell hears of a signal when what runs in front has ended, unless it runs nothing in front: one
# that begins to at the moment of the signal would hear of it only then. Its children are told as
# well, and maybe before it: it goes on when they have ended.
FOR_EVER = "while :; do sleep 600 & wait $!; done"
WAITS = (
    "exec 2>/dev/null; trap 'echo all of it >> /workspace/told; echo last words; exit 3' TERM;"
    f" echo begun; {FOR_EVER}"
)


def stopped(home: Path, script: str, *, grace_s: float = GRACE_S, **fields: object) -> Ran:
    async def work() -> Ran:
        cancel, started = asyncio.Event(), asyncio.Event()
        lab = Lab(home)
        asked = {"wall_s": 60, **fields, **lab.layers(), "grace_s": lambda: grace_s}
        run = asyncio.create_task(lab.shell(script, cancel=cancel, started=started, **asked))
        await asyncio.wait_for(started.wait(), 30)
        if "wall_s" not in fields and "idle_s" not in fields:
            cancel.set()
        return await run

    return unprivileged.run(home, work)


@pytest.mark.parametrize(
    ("fields", "outcomes"),
    [
        ({}, [Cancelled()]),
        ({"wall_s": 5.0}, [TimedOut(5.0)]),
        ({"idle_s": 4.0}, [LimitExceeded("idle", n) for n in range(4, int(SOON_S))]),
    ],
)
def test_who_is_stopped_writes_what_it_has_and_its_last_words_are_heard(
    tmp_path: Path, fields: dict[str, object], outcomes: list[Outcome]
) -> None:
    ran = stopped(tmp_path, WAITS, **fields)
    assert ran.outcome in outcomes
    assert ran.output.split("\n") == ["begun", "last words", ""]
    assert (tmp_path / "layer" / "upper" / "told").read_text() == "all of it\n"
    assert ran.result.duration_ms < SOON_S * 1000  # it ended by itself, and nobody waited longer


def test_without_a_grace_nobody_is_told(tmp_path: Path) -> None:
    ran = stopped(tmp_path, WAITS, grace_s=0.0)
    assert (ran.outcome, ran.output) == (Cancelled(), "begun\n")


def test_who_does_not_listen_is_killed_with_all_it_started_after_the_grace(tmp_path: Path) -> None:
    token = f"wfhub-deaf-{os.getpid()}"
    deaf = "trap '' TERM; echo begun; while :; do sleep 600; done"
    script = f"setsid /bin/sh -c 'trap \"\" TERM; while :; do sleep 600; done #{token}' & {deaf}"
    began = time.monotonic()
    ran = stopped(tmp_path, script, grace_s=1.0)
    assert ran.outcome == Cancelled()
    assert 1.0 <= time.monotonic() - began < SOON_S
    assert not processes_with(token)


def test_children_of_the_agent_are_told_too(tmp_path: Path) -> None:
    child = f"(trap 'echo child; exit' TERM; echo begun; {FOR_EVER})"
    # The trap first: `begun` is the child's, and the signal may come at once.
    trap = "trap 'wait $child; echo parent; exit' TERM"
    parent = f"exec 2>/dev/null; {trap}; {child} & child=$!; {FOR_EVER}"
    assert stopped(tmp_path, parent).output.split() == ["begun", "child", "parent"]


MUCH = "head -c 3000000 /dev/zero; while :; do sleep 600; done"


def test_who_passed_a_limit_is_not_told(tmp_path: Path) -> None:
    script = f"trap 'echo told; exit' TERM; {MUCH}"
    ran = stopped(tmp_path, script, limits=Limits(output_bytes=1_000_000), wall_s=50.0)
    assert ran.outcome == LimitExceeded("output", 1_000_000)
    assert "told" not in ran.output
    assert ran.result.duration_ms < SOON_S * 1000


def test_a_limit_that_is_passed_in_the_grace_ends_it(tmp_path: Path, backend: str) -> None:
    script = f"trap '{MUCH}' TERM; echo begun; {FOR_EVER}"
    ran = stopped(tmp_path, script, limits=Limits(output_bytes=1_000_000))
    assert (ran.outcome, ran.result.truncated) == (Cancelled(), True)
    # A pod has the grace that it was told of.
    assert ran.result.duration_ms < (SOON_S + GRACE_S * (backend == "kubernetes")) * 1000
