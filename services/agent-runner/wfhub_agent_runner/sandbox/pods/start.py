"""What a pod's agent container runs: lays the agent's own files out, then becomes inside.py.

Reads start.json beside it: {"argv", "env", "cwd", "own": {path: name of the file here}}. The
report of inside.py goes to the container's termination message, where the runner finds it.
Standard library only; bound in as one file and run with `-I -S`.
"""

import json
import os
import sys

TERMINATION = "/dev/termination-log"
REPORT = 3


def main() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "start.json"), encoding="utf-8") as file:
        told = json.load(file)
    for path, name in told["own"].items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(os.path.join(here, name), "rb") as source, open(path, "wb") as target:
            target.write(source.read())
    report = os.open(TERMINATION, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(report, REPORT)
    os.set_inheritable(REPORT, True)  # dup2 leaves a descriptor alone that is that one already
    os.chdir(told["cwd"])
    os.execve(sys.executable, [sys.executable, "-I", "-S", *told["argv"]], told["env"])  # noqa: S606


if __name__ == "__main__":
    main()
