"""Specs as they are stored, read once while a task is on its way.

A task's spec is needed at its claim, for its proof and for its publication. To read it means to
check it anew, the dearest thing of all that is done with it; so the last ones that were read are
kept, each beside its text: another text is read again.
Raises: Unreadable.
"""

from collections import OrderedDict

from pydantic import ValidationError
from wfhub_common.messages import TaskSpec

KEPT_TASKS = 2000
KEPT_CHARS_MAX = 16 * 1024  # a larger one is read each time

_kept: OrderedDict[str, tuple[str, TaskSpec]] = OrderedDict()


class Unreadable(Exception):
    """Stored by a version that this one cannot read: a newer one, say, that was given up again."""

    def __init__(self, task_id: str, why: str) -> None:
        super().__init__(f"the spec of {task_id}: {why}")
        self.task_id = task_id


def of(task_id: str, text: str) -> TaskSpec:
    found = _kept.pop(task_id, None)
    if found is None or found[0] != text:
        try:
            found = (text, TaskSpec.model_validate_json(text))
        except ValidationError as e:
            said = e.errors(include_url=False, include_input=False)[0]
            raise Unreadable(task_id, f"{'.'.join(map(str, said['loc']))}: {said['msg']}") from e
    if len(text) <= KEPT_CHARS_MAX:
        _kept[task_id] = found
        if len(_kept) > KEPT_TASKS:
            _kept.popitem(last=False)
    return found[1]
