"""`wfhub doctor`: the runner's own examination of this machine, as a table or JSON.

The runner's code runs in a process of its own, as a service would.
"""

import json
import subprocess
import sys
from typing import Any

EXAMINATION_S_MAX = 180  # some seconds, but for a machine that is busy to the full


def run(*, as_json: bool) -> int:
    """0: a runner could work here. Raises: SystemExit when the examination itself failed."""
    argv = [sys.executable, "-I", "-m", "wfhub_agent_runner.doctor"]
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=EXAMINATION_S_MAX)
    except subprocess.TimeoutExpired as e:
        raise SystemExit(
            f"the examination took more than {EXAMINATION_S_MAX} s: try again when this machine"
            " has less to do"
        ) from e
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError as e:
        raise SystemExit(f"the examination ended without a result ({done.returncode})") from e
    print(json.dumps(found) if as_json else text(found))
    return 0 if found["ready"] else 1


def text(found: dict[str, Any]) -> str:
    lines = []
    for backend in found["backends"]:
        lines.append(f"{backend['name']:<12}{'works' if backend['works'] else 'does not work'}")
        facts = {key: value for key, value in backend["facts"].items() if key != "backend"}
        lines += [f"{'':12}{key}: {_plain(value)}" for key, value in facts.items()]
        lines += [f"{'':12}{word}: {backend[word]}" for word in ("why", "do") if backend[word]]
    for share in found["shares"]:
        lines.append(f"share       {share['at']} ({share['type']}, {share['device']})")
        lines.append(f"{'':12}can be: {_plain(share['layers'])}")
        lines += [f"{'':12}danger: {danger}" for danger in share["dangers"]]
    if proofs := found["proof_store"]:
        lines.append(f"proof-store {proofs['at']}")
        lines.append(f"{'':12}{proofs['why'] or 'takes our SERVICE_TOKEN'}")
    if not any(backend["works"] for backend in found["backends"]):
        lines.append("no sandbox works here: a runner would take no task")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
