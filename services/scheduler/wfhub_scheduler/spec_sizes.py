"""Sizes: how large a task may be, so that a proof can be asked for of whatever its attempts bring.

A proof's question is one message: the spec, what the runner saw, and the receipts. The prompt does
not count: a digest stands for it there. Pure.
"""

from wfhub_common.limits import SPEC_BYTES_MAX
from wfhub_common.messages import TaskSpec


def excess(spec: TaskSpec, text: str | None = None) -> str:
    """What is wrong; empty: nothing. `text`: the spec as JSON, where there is one already."""
    if text is not None and 4 * len(text) <= SPEC_BYTES_MAX:  # nearly every task; UTF-8 is no more
        return ""
    size = len(spec.model_dump_json(exclude={"prompt"}).encode())
    if size <= SPEC_BYTES_MAX:
        return ""
    return (
        f"without its prompt it has {size} bytes as JSON; at most {SPEC_BYTES_MAX}, since its proof"
        " is made of it: put long commands and arguments into files of the repository"
    )
