"""Telling a sandbox's processes that their end is near: SIGTERM from outside, to all that are the
agent's.

Not told are the init and the starter, which are ours and may be one; the forwarder, which is too,
does not listen.
"""

import contextlib
import os
import signal

from wfhub_agent_runner.sandbox import usage


def tell(init: int, starter: int) -> None:
    """By the host's numbers of these processes."""
    ours = {init, starter}
    opened: dict[int, int] = {}
    try:
        for pid in usage.processes(init):
            if pid not in ours:
                with contextlib.suppress(OSError):
                    opened[pid] = os.pidfd_open(pid)
        # Once more: the number of one that ended meanwhile may be a stranger's by now.
        for pid in opened.keys() & set(usage.processes(init)):
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(opened[pid], signal.SIGTERM)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
