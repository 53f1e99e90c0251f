"""What the scheduler promises, as a small world in memory.

A world is told of a command and of the answer that came, says whether that answer was allowed
(`Mismatch` if not), and changes as the promise says: what the API asks is in asked.py and flows.py,
what runners ask in worked.py; what nobody asks for is here.
"""

from dataclasses import replace

from .flows import Flows
from .records import Follow, Maybe, Step, Task, Unit
from .worked import Worked

BEFORE_PUBLISHING = ("blocked", "ready", "running", "sealing")


class World(Flows, Worked):
    def sweep(self) -> Follow:
        """In this order; what a stage finds is what is over when its turn comes."""
        return [
            lambda world: world.late("queue"),
            lambda world: world.late("review"),
            lambda world: world.late("deadline"),
            lambda world: [Maybe(_lose(each.attempt_id)) for each in world.live() if each.expired],
        ]

    def late(self, which: str) -> Follow:
        late = [each.task_id for each in self.tasks.values() if _is_late(each, which)]
        return [Maybe(_time_out(task_id, which)) for task_id in late]

    def time_out(self, task_id: str, which: str) -> None:
        task = self.tasks[task_id]
        if not _is_late(task, which):
            return
        if task.state == "running":
            self.tasks[task_id] = replace(task, stopping=True)
        else:
            own = {"queue": "queue-timeout", "review": "" if task.past else "review-timeout"}
            reason = own.get(which) or "deadline"
            self.tasks[task_id] = self._end(task, "failed", reason)

    def ask_for_seals(self, outcome: str) -> Follow:
        """`outcome`: sealed | away | the code of a refusal."""
        due = [task for task in self.tasks.values() if task.seal_waits is False]
        for task in due:
            self.tasks[task.task_id] = replace(task, seal_waits=True)
        return [_sealed(task.task_id, outcome) for task in due]

    def seal(self, task_id: str, outcome: str) -> None:
        task = self.tasks[task_id]
        if task.state != "sealing" or outcome == "away":
            return
        if outcome != "sealed":
            self.tasks[task_id] = self._end(task, "failed", outcome)
        elif task.past:
            self.tasks[task_id] = replace(self._end(task, "failed", "deadline"), sealed=True)
        elif task.wish.ci or task.wish.review:
            reason = "ci-files-changed" if task.wish.ci else ""
            after = replace(task, state="review", reason=reason, seal_waits=None)
            self.tasks[task_id] = replace(after, sealed=True)
        else:
            new = Unit(born=self.moment)
            after = replace(task, state="publishing", reason="", seal_waits=None, publish=new)
            self.tasks[task_id] = replace(after, sealed=True)


def _is_late(task: Task, which: str) -> bool:
    if which == "deadline":
        return task.past and not task.stopping and task.state in BEFORE_PUBLISHING
    if which == "review":
        return task.state == "review" and (task.past or task.review_over)
    waited = task.wish.queue_s and task.queue_over and not task.wish.later
    return waited and task.state == "ready" and task.unstarted


def _lose(attempt_id: str) -> Step:
    return lambda world: world.lose(attempt_id, "")


def _time_out(task_id: str, which: str) -> Step:
    return lambda world: world.time_out(task_id, which)


def _sealed(task_id: str, outcome: str) -> Step:
    return lambda world: world.seal(task_id, outcome)
