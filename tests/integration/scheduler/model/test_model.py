"""Whatever commands come, in whatever order, twice, late or at once: the scheduler keeps its
promises. MODEL_EXAMPLES=2000 MODEL_STEPS=60 makes it a long run (and random, not repeated)."""

import math
import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from wfhub_scheduler.states import TASK_RULES, Rule

from . import lab as labs
from .lab import Lab
from .machine import Coordination

EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))
STEPS = int(os.environ.get("MODEL_STEPS", "40"))
CI_EXAMPLES = 90
CI_S_MAX = 120.0  # beside other tests; on a busier machine there are fewer examples
CI_EXAMPLES_MIN = 5


@pytest.fixture(scope="module")
def lab(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with labs.opened(postgres_server, tmp_path_factory.mktemp("key")) as opened:
        Coordination.lab = opened
        yield opened


def _settings(examples: int, **more: object) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        print_blob=False,
        # Shrinking takes minutes: the long run does it, CI shows the steps as they were.
        phases=[Phase.generate, Phase.shrink] if EXAMPLES else [Phase.generate],
        suppress_health_check=list(HealthCheck),
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.timeout(400 + EXAMPLES * 20)
def test_every_interleaving_of_commands_keeps_the_promises(lab: Lab) -> None:
    began = time.monotonic()
    lab.until = math.inf if EXAMPLES else began + CI_S_MAX
    run_state_machine_as_test(Coordination, settings=_settings(EXAMPLES or CI_EXAMPLES))
    took_s = time.monotonic() - began
    met = ", ".join(f"{what.strip()} {count}" for what, count in sorted(lab.met.items()))
    print(f"{lab.examples} examples, {lab.steps} commands in {took_s:.1f} s: {met}")
    print(*(f"{lab.taken[rule]:7} {_said(rule)}" for rule in TASK_RULES), sep="\n")
    assert lab.examples >= CI_EXAMPLES_MIN


def _said(rule: Rule) -> str:
    return f"{rule.state}, {rule.event} if {rule.guard.__name__}: {rule.to}"
