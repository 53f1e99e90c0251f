"""What the API may ask, as the model answers it: projects, pools, drains, tasks and what is said of
them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .records import (
    Answer,
    Pool,
    Project,
    Task,
    Unit,
    Wish,
    check,
    ok,
    refused,
    same,
)
from .state import State

Ask = tuple[Wish, str | None]  # a task and its key


class Asked(State):
    def create_project(
        self, name: str, limit: int, weight: int, queue: int, answer: Answer
    ) -> None:
        known = self.projects.get(name)
        wanted = (limit, weight, queue)
        if known is not None and (known.limit, known.weight, known.queue) != wanted:
            return refused(answer, "project-exists")
        value = ok(answer)
        same(value, created=known is None, running_limit=limit, weight=weight, queue_limit=queue)
        if known is None:
            self.projects[name] = Project(value.project_id, name, limit, weight, queue)
        return None

    def update_project(self, name: str, changes: dict[str, Any], answer: Answer) -> None:
        """`changes`: fields of the record."""
        if name not in self.projects:
            return refused(answer, "project-unknown")
        after = self.projects[name] = replace(self.projects[name], **changes)
        limits = {"running_limit": after.limit, "queue_limit": after.queue}
        return same(ok(answer), weight=after.weight, paused=after.paused, **limits)

    def update_pool(self, name: str, changes: dict[str, Any], answer: Answer) -> None:
        after = self.pools[name] = replace(self.pools.get(name, Pool()), **changes)
        same(ok(answer), running_limit=after.limit, paused=after.paused)

    def drain(self, runner: str, drain: bool, answer: Answer) -> None:
        if runner not in self.runners:
            return refused(answer, "runner-unknown")
        self.runners[runner] = replace(self.runners[runner], draining=drain)
        has = sum(attempt.runner == runner for attempt in self.live())
        return same(ok(answer), draining=drain, running=has)

    def submit(self, wish: Wish, key: str | None, answer: Answer) -> None:
        project = self.projects.get(wish.project)
        if project is None:
            return refused(answer, "project-unknown")
        known = None if key is None else self.keys.get((wish.project, key))
        if known is not None:
            task = self.tasks[known]
            if task.wish != wish:
                return refused(answer, "idempotency-conflict")
            return same(ok(answer), task_id=known, state=task.state, created=False)
        if self.queued(wish.project) >= project.queue:
            return refused(answer, "queue-full")
        value = ok(answer)
        same(value, project_id=project.project_id, state="ready", created=True)
        check(value.task_id not in self.tasks, "a new task has a new id")
        task = Task(value.task_id, wish, agent=Unit(waits=wish.later, born=self.moment))
        self.tasks[task.task_id] = task
        if key is not None:
            self.keys[wish.project, key] = task.task_id
        return None

    def submit_many(self, asked: Sequence[Ask], answer: Answer) -> None:
        """Each answered for itself, as if they had come one after the other."""
        results = ok(answer).results
        check(len(results) == len(asked), "an answer a task")
        for (wish, key), result in zip(asked, results, strict=True):
            code = "" if result.error is None else result.error["code"]
            self.submit(wish, key, Answer(result.submitted, code))

    def cancel(self, task_id: str, answer: Answer) -> None:
        if task_id not in self.tasks:
            return refused(answer, "task-unknown")
        accepted, state = self.stop(task_id)
        return same(ok(answer), accepted=accepted, state=state)

    def stop(self, task_id: str) -> tuple[bool, str]:
        """A cancel: whether it was accepted, and the task's state now."""
        task = self.tasks[task_id]
        match task.state:
            case "blocked" | "ready" | "sealing" | "review":
                task = self._end(replace(task, cancel=True), "cancelled", "cancelled")
            case "running":
                task = replace(task, cancel=True, stopping=True)
            case _:  # publishing leaves only by an observed outcome; the end is the end
                return False, task.state
        self.tasks[task_id] = task
        return True, task.state

    def review(self, task_id: str, decision: str, answer: Answer) -> None:
        if task_id not in self.tasks:
            return refused(answer, "task-unknown")
        task = self.tasks[task_id]
        accepted = task.review == decision
        if task.state == "review" and decision == "declined":
            task, accepted = self._end(task, "failed", "review-declined"), True
        elif task.state == "review" and not task.past:
            publish = Unit(born=self.moment)
            task = replace(task, state="publishing", reason="", publish=publish)
            accepted = True
        if accepted:
            self.tasks[task_id] = replace(task, review=decision)
        return same(ok(answer), accepted=accepted, state=task.state)
