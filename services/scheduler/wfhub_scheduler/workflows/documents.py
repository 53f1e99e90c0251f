"""Documents: what was submitted as a workflow, read into a plan, or refused with all its faults.

A task's spec is the document's `defaults` under the task's own fields; `agent`, `limits` and
`retry` are laid over field by field. Everything is checked here: shape, each spec, names, cycles,
and that an expression names an output of a task that ends before. A task that needs one other of
its repository, and has no `base` of its own, starts from that one's result. Pure.
Raises: Rejected (422 `workflow-invalid` with `faults`, 413 `workflow-too-large`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from wfhub_common import digests, limits
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    NeedsPolicy,
    OnFailure,
    TaskSpec,
    WorkflowDocument,
    WorkflowTask,
)

from wfhub_scheduler.workflows import expressions, graph
from wfhub_scheduler.workflows.expressions import BadExpression
from wfhub_scheduler.workflows.faults import Fault, Path, of_validation, refuse_any
from wfhub_scheduler.workflows.spec_texts import WHERE, texts

_LAID_OVER = ("agent", "limits", "retry")
_OF_THE_GRAPH = frozenset(WorkflowTask.model_fields)


@dataclass(frozen=True)
class Node:
    """A task of the graph; `needs` and `children` are numbers of other nodes, and so is
    `continues`: the need whose result it starts from."""

    name: str
    spec: TaskSpec
    needs: tuple[int, ...]
    children: tuple[int, ...]
    continues: int | None
    needs_policy: NeedsPolicy
    on_failure: OnFailure


@dataclass(frozen=True)
class Plan:
    name: str
    on_failure: OnFailure
    nodes: tuple[Node, ...]


def read(raw: dict[str, Any]) -> Plan:
    document = _document(raw)
    needs = {name: task.needs for name, task in document.tasks.items()}
    specs, faults = _specs(document)
    faults += graph.name_faults(needs)
    refuse_any(faults)
    if fault := graph.cycle_fault(needs):
        refuse_any([fault])
    numbers = {name: i for i, name in enumerate(needs)}
    wanted = [tuple(numbers[need] for need in each) for each in needs.values()]
    refuse_any(_expression_faults(specs, numbers, wanted))
    children = graph.children(wanted)
    return Plan(
        document.name,
        document.on_failure,
        tuple(
            Node(
                name,
                specs[name],
                wanted[i],
                tuple(children[i]),
                numbers[task.needs[0]] if _continues(name, task, specs) else None,
                task.needs_policy,
                task.on_failure or document.on_failure,
            )
            for i, (name, task) in enumerate(document.tasks.items())
        ),
    )


def _document(raw: dict[str, Any]) -> WorkflowDocument:
    try:
        size = len(digests.canonical_json(raw))
    except (ValueError, TypeError) as e:
        raise Rejected("workflow-invalid", f"the document is not plain JSON: {e}") from e
    if size > limits.WORKFLOW_BYTES_MAX:
        raise Rejected(
            "workflow-too-large",
            f"the document has {size} bytes as JSON; at most {limits.WORKFLOW_BYTES_MAX}: put what"
            " tasks share into `defaults`, and long texts into the repository",
            status=413,
        )
    try:
        return WorkflowDocument.model_validate(raw)
    except ValidationError as e:
        refuse_any(of_validation(e))
        raise AssertionError("a validation error names a fault") from e


def _specs(document: WorkflowDocument) -> tuple[dict[str, TaskSpec], list[Fault]]:
    faults: list[Fault] = list(_default_faults(document.defaults))
    at_fault = {fault.path[1:] for fault in faults}
    specs: dict[str, TaskSpec] = {}
    # A few hundred kilobytes of defaults, in each of two thousand tasks, are a gigabyte.
    size = len(digests.canonical_json(document.defaults)) * len(document.tasks)
    if size > limits.WORKFLOW_SPECS_BYTES_MAX:
        raise Rejected(
            "workflow-too-large",
            f"its `defaults`, once in each of {len(document.tasks)} tasks, have {size} bytes; at"
            f" most {limits.WORKFLOW_SPECS_BYTES_MAX}: put long texts into the repository",
            status=413,
        )
    for name, task in document.tasks.items():
        try:
            specs[name] = TaskSpec.model_validate(merged(document.defaults, _own_fields(task)))
        except ValidationError as e:
            found = of_validation(e, ("tasks", name))
            faults += [fault for fault in found if fault.path[2:] not in at_fault]
    return specs, faults


def _default_faults(defaults: dict[str, Any]) -> Iterator[Fault]:
    """Said once, not once a task. Whether `repo` is there is seen with each task."""
    for field in sorted(_OF_THE_GRAPH & defaults.keys()):
        yield Fault(("defaults", field), "is said of each task, not of all")
    rest = {name: value for name, value in defaults.items() if name not in _OF_THE_GRAPH}
    try:
        TaskSpec.model_validate({"repo": "unsaid", **rest})
    except ValidationError as e:
        yield from of_validation(e, ("defaults",))


def _continues(name: str, task: WorkflowTask, specs: Mapping[str, TaskSpec]) -> bool:
    """One need, of the same repository, and no `base` of its own: one from `defaults` is where
    the graph begins."""
    if len(task.needs) != 1 or "base" in _own_fields(task):
        return False
    return specs[task.needs[0]].repo == specs[name].repo


def _own_fields(task: WorkflowTask) -> dict[str, Any]:
    return dict(task.model_extra or {})


def merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    spec = {**defaults, **own}
    for field in _LAID_OVER:
        below, above = defaults.get(field), own.get(field)
        if isinstance(below, dict) and isinstance(above, dict):
            spec[field] = {**below, **above}
    return spec


def _expression_faults(
    specs: Mapping[str, TaskSpec], numbers: Mapping[str, int], needs: list[tuple[int, ...]]
) -> Iterator[Fault]:
    before: list[int] | None = None
    for name, spec in specs.items():
        for each in texts(spec.model_dump(mode="json")):
            path: Path = ("tasks", name, *each.path)
            if each.kind is None:
                yield Fault(path, f"no expression may stand here; only in {WHERE}")
                continue
            try:
                found = expressions.references(each.text, each.kind)
            except BadExpression as e:
                yield Fault(path, str(e))
                continue
            before = graph.ancestors(needs) if before is None else before
            for reference in found:
                other = numbers.get(reference.task)
                if other is None:
                    yield Fault(path, f"{reference}: no task is named {reference.task!r}")
                elif not before[numbers[name]] >> other & 1:
                    yield Fault(
                        path,
                        f"{reference}: {name!r} does not need {reference.task!r}, so it may start"
                        f" before that has ended; add {reference.task!r} to its needs",
                    )
