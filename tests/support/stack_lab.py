"""A whole stack, started as a user would, and the CLI against it."""

import json
import os
import subprocess
import sysconfig
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WFHUB = str(Path(sysconfig.get_path("scripts")) / "wfhub")
READY_S_MAX = 100  # several stacks start at once on two cores; a test ends at 120


@dataclass
class Stack:
    data: Path
    process: subprocess.Popen[str]
    url: str

    def env(self) -> dict[str, str]:
        """Keys that it comes to trust are its own: another stack had this folder's name before."""
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("WFHUB_", "LLM_"))}
        config = {"XDG_CONFIG_HOME": f"{self.data}.config"}
        return {**config, **keep, "WFHUB_DATA": str(self.data)}

    def wfhub(self, *arguments: str, timeout_s: float = 100) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [WFHUB, *arguments],
            env=self.env(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def run(self, *arguments: str, timeout_s: float = 100) -> tuple[int, dict[str, Any], str]:
        """`wfhub run … --json`: exit code, the last line's object, standard error."""
        done = self.wfhub("run", "--json", *arguments, timeout_s=timeout_s)
        lines = done.stdout.strip().splitlines()
        assert lines, done.stderr
        return done.returncode, json.loads(lines[-1]), done.stderr


def start(data: Path, *more: str, ready_s: float = READY_S_MAX, **env: str) -> Stack:
    process = subprocess.Popen(
        [WFHUB, "up", "--data", str(data), "--port", "0", *more],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("WFHUB_")}, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        return Stack(data, process, ready_url(process, ready_s))
    except BaseException:
        process.kill()  # whatever it started ends with it
        process.wait()
        raise


def ready_url(process: "subprocess.Popen[str]", within_s: float) -> str:
    assert process.stdout is not None
    seen: list[str] = []
    deadline = time.monotonic() + within_s
    for line in process.stdout:
        seen.append(line)
        if line.startswith("ready "):
            # Keep the pipe drained, so that the stack never blocks on telling us something.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return line.split()[1]
        assert time.monotonic() < deadline, "".join(seen)
    raise AssertionError("wfhub up ended early:\n" + "".join(seen))
