"""The state tables in docs/architecture.md are those of the code."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wfhub_scheduler.states import ATTEMPT_RULES, TASK_RULES

PAGE = Path(__file__).parents[3] / "docs" / "architecture.md"


def worded(guard: Callable[[Any], bool]) -> str:
    return guard.__name__.replace("_", " ")


def because(reason: str | None) -> str:
    match reason:
        case None:
            return "the event's"
        case "":
            return "-"
    return f"`{reason}`"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def task_table() -> str:
    head = ["in state", "on", "if", "goes to", "and", "reason"]
    rows = [
        [rule.state, rule.event, worded(rule.guard), rule.to, rule.effect, because(rule.reason)]
        for rule in TASK_RULES
    ]
    return table(head, rows)


def attempt_table() -> str:
    head = ["in state", "on", "if", "goes to", "and tells its task"]
    rows = [
        [", ".join(rule.states), rule.event, worded(rule.guard), rule.to, rule.then or "-"]
        for rule in ATTEMPT_RULES
    ]
    return table(head, rows)


def test_the_page_shows_the_tasks_table() -> None:
    assert task_table() in PAGE.read_text(), f"put this into {PAGE.name}:\n{task_table()}"


def test_the_page_shows_the_attempts_table() -> None:
    assert attempt_table() in PAGE.read_text(), f"put this into {PAGE.name}:\n{attempt_table()}"
