"""Workflows, as the model has them: what is submitted, what follows from ends, what a cancel does.

A node that needs `all_succeeded` falls as soon as one that it needs did not succeed; one that
needs `all_done` starts when all that it needs have ended. One that begins at the branch of another
that has none ends instead. A failure whose node says `fail` lets
everything fall that has not started, but what needs `all_done`.
"""

from collections.abc import Iterator
from dataclasses import replace

from .asked import Asked
from .records import (
    FINAL,
    Answer,
    Follow,
    Maybe,
    Node,
    Step,
    Task,
    Unit,
    Workflow,
    check,
    ok,
    refused,
    same,
)


class Flows(Asked):
    def submit_workflow(
        self, project: str, nodes: tuple[Node, ...], key: str | None, answer: Answer
    ) -> None:
        of = self.projects.get(project)
        if of is None:
            return refused(answer, "project-unknown")
        known = None if key is None else self.flow_keys.get((project, key))
        if known is not None:
            flow = self.workflows[known]
            if flow.nodes != nodes:
                return refused(answer, "idempotency-conflict")
            return same(ok(answer), workflow_id=known, state=flow.state, created=False)
        if len(nodes) > of.queue:
            return refused(answer, "workflow-too-large")
        if self.queued(project) + len(nodes) > of.queue:
            return refused(answer, "queue-full")
        value = ok(answer)
        same(value, state="running", created=True, project_id=of.project_id)
        ids = tuple(value.tasks[f"n{i}"] for i in range(len(nodes)))
        check(not self.tasks.keys() & set(ids), "a new task has a new id")
        for task_id, node in zip(ids, nodes, strict=True):
            state = "blocked" if node.needs else "ready"
            unit = None if node.needs else Unit(waits=node.wish.later, born=self.moment)
            flow_id = value.workflow_id
            self.tasks[task_id] = Task(task_id, node.wish, state, agent=unit, workflow=flow_id)
        self.workflows[value.workflow_id] = Workflow(project, nodes, ids)
        if key is not None:
            self.flow_keys[project, key] = value.workflow_id
        return None

    def cancel_workflow(self, workflow_id: str, answer: Answer) -> None:
        flow = self.workflows.get(workflow_id)
        if flow is None:
            return refused(answer, "workflow-unknown")
        running = flow.state == "running"
        if running and not flow.cancel:
            self.workflows[workflow_id] = replace(flow, cancel=True)
            for task_id in flow.tasks:
                self.stop(task_id)
            self.advance(workflow_id)
        return same(ok(answer), accepted=running, state=self.workflows[workflow_id].state)

    def turn_workflows(self) -> Follow:
        """Ends are counted, a workflow a transaction."""
        due = {task.workflow for task in self.tasks.values() if _to_count(task)}
        return [Maybe(_advance(flow)) for flow in sorted(each for each in due if each)]

    def advance(self, workflow_id: str) -> None:
        flow = self.workflows[workflow_id]
        tasks = [self.tasks[task_id] for task_id in flow.tasks]
        ended = {n for n, task in enumerate(tasks) if _to_count(task)}
        if not ended:
            return
        failed = {n for n in ended if tasks[n].state != "succeeded"}
        if any(flow.nodes[n].stops for n in failed):
            fallen = dict.fromkeys(_may_fall(flow, tasks), "workflow-failed")
        else:
            fallen = dict.fromkeys(_descendants(flow, tasks, failed), "parent-failed")
        for n, reason in fallen.items():
            tasks[n] = self._end(tasks[n], "cancelled", reason)
        for n in ended | fallen.keys():
            tasks[n] = replace(tasks[n], counted=True)
        for n, node in enumerate(flow.nodes):
            if tasks[n].state == "blocked" and all(tasks[each].counted for each in node.needs):
                if node.takes and tasks[node.needs[0]].state != "succeeded":
                    tasks[n] = self._end(tasks[n], "failed", "unresolvable")
                    continue
                unit = Unit(waits=node.wish.later, born=self.moment)
                tasks[n] = replace(tasks[n], state="ready", agent=unit)
        for task in tasks:
            self.tasks[task.task_id] = task
        self.workflows[workflow_id] = replace(flow, state=_state(flow, tasks))


def _advance(workflow_id: str) -> Step:
    return lambda world: world.advance(workflow_id)


def _to_count(task: Task) -> bool:
    return task.workflow is not None and task.state in FINAL and not task.counted


def _may_fall(flow: Workflow, tasks: list[Task]) -> Iterator[int]:
    return (n for n, node in enumerate(flow.nodes) if tasks[n].unstarted and not node.all_done)


def _descendants(flow: Workflow, tasks: list[Task], failed: set[int]) -> set[int]:
    """What falls since something that it needs failed, or fell for that; nodes come after what
    they need, so one pass is enough."""
    fallen: set[int] = set()
    may_fall = set(_may_fall(flow, tasks))
    for n, node in enumerate(flow.nodes):
        if n in may_fall and (failed | fallen) & set(node.needs):
            fallen.add(n)
    return fallen


def _state(flow: Workflow, tasks: list[Task]) -> str:
    if not all(task.counted for task in tasks):
        return "running"
    if all(task.state == "succeeded" for task in tasks):
        return "succeeded"
    return "cancelled" if flow.cancel else "failed"
