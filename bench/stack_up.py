"""Time from `wfhub up` to `ready`, and the memory of the idle stack. One JSON line.

`python bench/stack_up.py [RUNS]`; the first start (with initdb) is given apart, the others are
warm: median of RUNS, in seconds. Memory is PSS (shared pages counted once), in bytes.
"""

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import psutil

WFHUB = Path(sysconfig.get_path("scripts")) / "wfhub"
SETTLE_S = 3.0


def one(data: Path, *, measure: bool) -> tuple[float, float, dict[str, int]]:
    began = time.monotonic()
    stack = subprocess.Popen(
        [WFHUB, "up", "--data", data, "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert stack.stdout is not None
    if not any(line.startswith("ready ") for line in stack.stdout):
        raise SystemExit("the stack did not become ready")
    ready_s = time.monotonic() - began
    memory: dict[str, int] = {}
    if measure:
        time.sleep(SETTLE_S)
        for process in [psutil.Process(stack.pid), *psutil.Process(stack.pid).children(True)]:
            name = next((a for a in process.cmdline() if a.endswith(".main")), process.name())
            memory[name] = memory.get(name, 0) + process.memory_full_info().pss
    asked = time.monotonic()
    stack.send_signal(signal.SIGINT)
    stack.stdout.read()
    if stack.wait(60):
        raise SystemExit(f"the stack ended with {stack.returncode}")
    return ready_s, time.monotonic() - asked, memory


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory(prefix="wfhub-bench-") as folder:
        data = Path(folder) / "data"
        first_s, _, _ = one(data, measure=False)
        results = [one(data, measure=number == runs - 1) for number in range(runs)]
    memory = results[-1][2]
    print(
        json.dumps(
            {
                "bench": "stack_up",
                "runs": runs,
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "as_root": os.geteuid() == 0,
                "runners": 1,
                "first_start_s": round(first_s, 2),
                "ready_s_median": round(statistics.median(r[0] for r in results), 2),
                "ready_s": [round(r[0], 2) for r in results],
                "stop_s_median": round(statistics.median(r[1] for r in results), 2),
                "pss_bytes": sum(memory.values()),
                "pss_bytes_of": memory,
            }
        )
    )


if __name__ == "__main__":
    main()
