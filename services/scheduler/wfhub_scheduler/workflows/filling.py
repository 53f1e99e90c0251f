"""Filling: what the results of others become in the spec of a task that may start.

An output is a text; one that a task does not have (the branch of one that failed) is empty. A task
that continues another's result has that one's commit as its base, if there is one. Pure.
Raises: Unresolvable.
"""

from collections.abc import Mapping
from typing import Any

from wfhub_common.messages import TaskSpec, TaskState

from wfhub_scheduler.workflows import expressions
from wfhub_scheduler.workflows.expressions import Reference
from wfhub_scheduler.workflows.spec_texts import filled, texts

Outputs = Mapping[str, str]  # the names are those of expressions.OUTPUTS


def tasks_named(spec: dict[str, Any]) -> set[str]:
    """Whose outputs it takes."""
    return {
        reference.task
        for each in texts(spec)
        if each.kind is not None
        for reference in expressions.references(each.text, each.kind)
    }


def with_results(
    spec: dict[str, Any], outputs: Mapping[str, Outputs], continues: Outputs | None = None
) -> TaskSpec:
    """`spec`: the JSON form of a task's spec; `continues`: outputs of the one it goes on from."""

    def value_of(reference: Reference) -> str:
        return outputs[reference.task][reference.output]

    made = filled(spec, value_of)
    if continues and continues["state"] == TaskState.SUCCEEDED and continues["commit"]:
        return made.model_copy(update={"base": continues["commit"]})
    return made
