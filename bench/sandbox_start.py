"""How long a sandbox takes to start: `true` in 20 fresh ones, one after the other, and in parallel.

Prints one JSON line; milliseconds, wall clock, from `run` to its return. As root it measures as
the runner's uid.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from wfhub_agent_runner.sandbox.bwrap import BwrapSandbox
from wfhub_agent_runner.sandbox.port import Exited, SandboxSpec
from wfhub_common import privileges
from wfhub_common.messages import Limits

RUNS = 20


async def measure(home: Path) -> dict[str, object]:
    sandbox = BwrapSandbox(scratch=home / "scratch")
    lower = home / "lower"
    lower.mkdir()
    spec = SandboxSpec(argv=("/bin/true",), lower=lower, limits=Limits(), wall_s=30)

    async def ignore(_: bytes) -> None:
        pass

    async def once() -> float:
        began = time.perf_counter()
        ran = await sandbox.run(spec, on_output=ignore, cancel=asyncio.Event())
        assert ran.outcome == Exited(0), ran
        return (time.perf_counter() - began) * 1000

    await once()
    alone = [await once() for _ in range(RUNS)]
    began = time.perf_counter()
    await asyncio.gather(*(once() for _ in range(RUNS)))
    together = (time.perf_counter() - began) * 1000
    return {
        "bench": "sandbox_start",
        "runs": RUNS,
        "median_ms": round(statistics.median(alone), 1),
        "max_ms": round(max(alone), 1),
        "parallel_total_ms": round(together, 1),
        "backend": sandbox.describe(),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="wfhub-bench-") as folder:
        home = Path(folder)
        pid = os.fork()  # the folder's owner stays behind to remove it
        if pid == 0:
            if os.geteuid() == 0:
                uid = privileges.SERVICE_UIDS["runner"]
                os.chown(home, uid, uid)
                code = privileges.code_paths()
                privileges.drop(uid, keep_visible=code, keep_writable=(home,))
            print(json.dumps(asyncio.run(measure(home))), flush=True)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
