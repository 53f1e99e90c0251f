"""The escape probes: about a dozen ways out, tried through the real backend.

Run at start and every few minutes. One that gets through means that the runner takes no tasks and
names it; so does a probe that could not be tried, because nothing was shown then.
Each has its positive control outside, where the thing that is refused inside can be done harmlessly
(`control`: a sentence); the rest are calls that only a privileged process may try.
"""

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wfhub_common.messages import Limits

from wfhub_agent_runner.sandbox import escapes
from wfhub_agent_runner.sandbox.layers import temporary_folder
from wfhub_agent_runner.sandbox.port import FILES, Sandbox, SandboxSpec, described

PROBE_TIMEOUT_S = 30.0
OUTPUT_BYTES_MAX = 64 * 1024
_SCRIPT = f"{FILES}/escapes.py"
_SCRIPT_BYTES = Path(escapes.__file__).read_bytes()
_PID_SPACE = "/proc/self/ns/pid"
_NAMES = tuple(attempt.__name__.replace("_", "-") for attempt in escapes.ATTEMPTS)


@dataclass(frozen=True)
class ProbeResult:
    """`held`: the sandbox refused it. `control`: what was seen to work outside, if anything."""

    name: str
    held: bool
    detail: str
    control: str = ""


async def probe(sandbox: Sandbox) -> list[ProbeResult]:
    with temporary_folder(sandbox.scratch) as folder, _host_listener() as port:
        canary = folder / "canary"
        canary.write_text("not for agents")
        for name in ("lower", "upper", "work"):
            (folder / name).mkdir()
        facts = {
            "canary": str(canary),
            "port": port,
            "host_pid_space": os.readlink(_PID_SPACE),
            "nosuid": sandbox.describe().get("nosuid", True),
        }
        output: list[bytes] = []

        async def keep(chunk: bytes) -> None:
            output.append(chunk)

        spec = SandboxSpec(
            argv=(*sandbox.interpreter, "-I", "-S", _SCRIPT, json.dumps(facts)),
            lower=folder / "lower",
            upper=folder / "upper",
            work=folder / "work",
            limits=Limits(output_bytes=OUTPUT_BYTES_MAX),
            wall_s=PROBE_TIMEOUT_S,
            files={_SCRIPT: _SCRIPT_BYTES},
        )
        ran = await sandbox.run(spec, on_output=keep, cancel=asyncio.Event())
        text = b"".join(output).decode(errors="replace")
        results = _parsed(text, _controls(canary, port))
        if results is None:
            why = f"the probes did not run ({described(ran.outcome)}): {text.strip()[-500:]}"
            return [ProbeResult("probes-ran", False, why)]
        return [ProbeResult("probes-ran", True, ""), *results, _owner(folder / "upper" / "probe")]


def _parsed(text: str, controls: dict[str, str]) -> list[ProbeResult] | None:
    try:
        found = json.loads(text)
        return [
            ProbeResult(name, not found[name][0], str(found[name][1]), controls.get(name, ""))
            for name in _NAMES
        ]
    except (ValueError, KeyError, TypeError, IndexError):
        return None


def _controls(canary: Path, port: int) -> dict[str, str]:
    """Raises: OSError when a control does not work even here, so that the probe shows nothing."""
    size = len(canary.read_bytes())
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        pass
    return {
        "read-host-file": f"the runner read {size} bytes of it",
        "reach-the-host": "the runner connected to it",
        "see-host-processes": f"the runner is in {os.readlink(_PID_SPACE)}",
        "new-user-namespace": "one was made to run this",
    }


def _owner(written: Path) -> ProbeResult:
    """Fact 1 of the recipe, seen from outside: who the sandbox's files belong to."""
    try:
        uid = written.stat().st_uid
    except OSError as e:
        return ProbeResult("not-root-outside", False, f"nothing was written: {e.strerror}")
    return ProbeResult("not-root-outside", uid != 0, f"uid {uid} on the host")


@contextmanager
def _host_listener() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]
