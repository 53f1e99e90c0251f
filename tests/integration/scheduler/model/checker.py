"""Judges what came back: is there an order of these commands in which every answer, and the state
that followed, is what the model allows?

One command has one order. Commands that ran at once have several, and a command of several
transactions (a sweep, a register) may be cut between any two of them: all are tried.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from wfhub_common.httpauth import token_sha256

from .model import World
from .records import Maybe, Mismatch, Pool, Step, Task, Unit

Program = tuple[Step, ...]

# Fields of a task that the snapshot has by the same names.
_OF_TASK = (
    *("state", "reason", "cancel", "stopping", "current", "winner", "used", "losses", "past"),
    *("sealed", "seal_waits", "review", "workflow", "counted"),
)


def explained(world: World, programs: Sequence[Program], seen: dict[str, Any]) -> World:
    """The world after the programs, in the first order that fits. Raises: Mismatch."""
    failures: list[str] = []
    found = _search(world, tuple(programs), seen, failures)
    if found is None:
        orders = "" if len(programs) == 1 else f" in any of {len(failures)} orders"
        raise Mismatch(f"not allowed{orders}: " + "; or ".join(dict.fromkeys(failures)))
    return found


def _search(
    world: World, programs: tuple[Program, ...], seen: dict[str, Any], failures: list[str]
) -> World | None:
    if not any(programs):
        wrong = differences(world, seen)
        if wrong:
            failures.append(", ".join(wrong))
        return None if wrong else world
    for at, program in enumerate(programs):
        if not program:
            continue
        if isinstance(program[0], Maybe) and not world.strict:
            others = (*programs[:at], program[1:], *programs[at + 1 :])
            if (found := _search(world, others, seen, failures)) is not None:
                return found
        after = world.copy()
        try:
            follow = program[0](after) or []
        except Mismatch as e:
            failures.append(str(e))
            continue
        rest = (*follow, *program[1:])
        found = _search(after, (*programs[:at], rest, *programs[at + 1 :]), seen, failures)
        if found is not None:
            return found
    return None


def differences(world: World, seen: dict[str, Any]) -> list[str]:
    wrong = []
    for table, expected in picture(world).items():
        found = seen[table] or {}
        for key in sorted(expected.keys() | found.keys()):
            wanted, is_ = expected.get(key), found.get(key)
            if wanted != is_:
                wrong.append(f"{table} {key} {_what_differs(wanted, is_)}")
    return wrong


def _what_differs(wanted: Any, is_: Any) -> str:
    if not isinstance(wanted, dict) or not isinstance(is_, dict):
        return f"is {is_!r}, the model says {wanted!r}"
    names = [name for name in wanted if wanted[name] != is_.get(name)]
    return " and ".join(f"{n} is {is_.get(n)!r}, the model says {wanted[n]!r}" for n in names)


def _shown(unit: Unit) -> dict[str, Any]:
    return {name: value for name, value in asdict(unit).items() if name != "born"}


def picture(world: World) -> dict[str, dict[str, Any]]:
    """The world as invariants.SNAPSHOT shows the database."""
    attempts = {
        attempt_id: {
            name: value
            for name, value in asdict(attempt).items()
            if name not in ("attempt_id", "over")
        }
        | {
            "expired": attempt.expired and attempt.live,
            "token": token_sha256(attempt.token) if attempt.token else None,
        }
        for attempt_id, attempt in world.attempts.items()
    }
    projects = {name: _named(project) for name, project in world.projects.items()}
    keys = {f"{project} {key}": task_id for (project, key), task_id in world.keys.items()}
    flow_keys = {f"{project} {key}": of for (project, key), of in world.flow_keys.items()}
    return {
        "tasks": {task_id: _task(task) for task_id, task in world.tasks.items()},
        "attempts": attempts,
        "projects": projects,
        "pools": {name: asdict(pool) for name, pool in world.pools.items() if pool != Pool()},
        "runners": {
            name: {"incarnation": each.incarnation, "draining": each.draining}
            for name, each in world.runners.items()
        },
        "workflows": {
            workflow_id: {"state": flow.state, "cancel": flow.cancel}
            for workflow_id, flow in world.workflows.items()
        },
        "keys": keys,
        "flow_keys": flow_keys,
    }


def _named(record: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name != "name"}


def _task(task: Task) -> dict[str, Any]:
    units = {"agent": task.agent, "publish": task.publish}
    shown = {name: getattr(task, name) for name in _OF_TASK}
    return shown | {
        "project": task.wish.project,
        "units": {kind: _shown(unit) for kind, unit in units.items() if unit is not None} or None,
    }
