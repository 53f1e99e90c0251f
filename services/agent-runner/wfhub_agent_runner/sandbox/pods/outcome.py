"""How a run's pod ended, or why it cannot begin: pure, from the pod's status.

The command's own end is the exit code of start.py, which the kubelet saw; how that is meant,
start.py wrote into the termination message. The agent can write there too, and is believed nothing
that the code does not say. Anything else is told by the kubelet: out of memory, evicted for its
disk, past its deadline. What the cluster took away (a node that is drained, low on something or not
reachable) ended by nothing of the command's, whatever its container says.
"""

import signal
from typing import Any

from wfhub_common.messages import Limits

from wfhub_agent_runner.sandbox.pods.manifest import AGENT
from wfhub_agent_runner.sandbox.pods.start import CANNOT_START
from wfhub_agent_runner.sandbox.port import (
    CannotStart,
    Exited,
    LimitExceeded,
    Outcome,
    Signalled,
    TakenAway,
    TimedOut,
)

# Reasons to wait that no waiting mends. ErrImagePull is not one: it is tried again.
HOPELESS = {
    "ImagePullBackOff",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "ErrImageNeverPull",
}
SIGNAL_BASE = 128  # what start.py adds, as a shell does


def cannot_start(pod: dict[str, Any]) -> str:
    """Empty while it may still start."""
    status = pod.get("status", {})
    for each in (status.get("initContainerStatuses") or []) + (
        status.get("containerStatuses") or []
    ):
        waiting = each.get("state", {}).get("waiting") or {}
        if waiting.get("reason") in HOPELESS:
            return f"{each['name']}: {waiting['reason']}: {waiting.get('message', '')}".strip(": ")
    return ""


def taken_away(pod: dict[str, Any]) -> str:
    """By whom and why; empty: nobody did. Evicted for more than its own is the pod's doing."""
    status = pod.get("status", {})
    if status.get("reason") == "Evicted":
        message = str(status.get("message", ""))
        return message if "low on resource" in message else ""
    for each in status.get("conditions") or []:
        if each.get("type") == "DisruptionTarget" and each.get("status") == "True":
            return f"{each.get('reason', '')}: {each.get('message', '')}"
    return ""


def ended(pod: dict[str, Any], limits: Limits) -> Outcome | None:
    """None while it runs."""
    status = pod.get("status", {})
    if why := taken_away(pod):
        return TakenAway(f"the pod was taken away: {why}")
    reason, message = status.get("reason", ""), status.get("message", "")
    for each in status.get("containerStatuses") or []:
        found = each.get("state", {}).get("terminated")
        if each["name"] == AGENT and found and reason not in {"Evicted", "DeadlineExceeded"}:
            return _terminated(found, limits)
    if reason == "DeadlineExceeded":
        return TimedOut(float(pod.get("spec", {}).get("activeDeadlineSeconds") or 0))
    if reason == "Evicted" and ("ephemeral" in message or "EmptyDir" in message):
        return LimitExceeded("disk", limits.disk_bytes)
    if status.get("phase") == "Failed":
        return CannotStart(f"the pod failed: {reason} {message}".strip())
    return None


def _terminated(found: dict[str, Any], limits: Limits) -> Outcome:
    if found.get("reason") == "OOMKilled":
        return LimitExceeded("memory", limits.memory_bytes)
    code = int(found.get("exitCode", 0))
    lines = (found.get("message") or "").splitlines()
    for line in reversed(lines):  # the agent's are before
        word, _, rest = line.partition(" ")
        if word == "exited" and rest == str(code):
            return Exited(code)
        if word == "signalled" and rest == str(code - SIGNAL_BASE):
            return Signalled(code - SIGNAL_BASE)
        if word == "cannot-start" and code == CANNOT_START:
            return CannotStart(rest)
    if "starting" in lines:  # the agent killed its own first process
        return Signalled(signal.SIGKILL)
    return CannotStart(f"the pod's first process ended with {code}: {found.get('reason', '')}")
