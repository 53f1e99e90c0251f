"""Specs as they are stored, read once while a task is on its way.

A task's spec is needed at its claim, for its proof and for its publication. To read it means to
check it anew, the dearest thing of all that is done with it; so the last ones that were read are
kept, each beside its text: another text is read again.
Raises: pydantic's ValidationError (stored by a version that this one cannot read).
"""

from collections import OrderedDict

from wfhub_common.messages import TaskSpec

KEPT_TASKS = 2000
KEPT_CHARS_MAX = 16 * 1024  # a larger one is read each time

_kept: OrderedDict[str, tuple[str, TaskSpec]] = OrderedDict()


def of(task_id: str, text: str) -> TaskSpec:
    found = _kept.pop(task_id, None)
    if found is None or found[0] != text:
        found = (text, TaskSpec.model_validate_json(text))
    if len(text) <= KEPT_CHARS_MAX:
        _kept[task_id] = found
        if len(_kept) > KEPT_TASKS:
            _kept.popitem(last=False)
    return found[1]
