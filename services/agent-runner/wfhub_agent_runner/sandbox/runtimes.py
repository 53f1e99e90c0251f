"""The OCI runtimes that can start our containers: crun, and gVisor's runsc.

crun maps an ordinary uid alone and takes our seccomp program as it is. runsc puts a kernel of its
own between the agent and the host's, so that a hole in the host's system calls is not the agent's
to try; the agent is that kernel's uid 0 without capabilities, and the runner's uid outside.
Raises: Rejected when there is none, or another program or release.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wfhub_common.errors import Rejected
from wfhub_common.messages import Limits

from wfhub_agent_runner.sandbox.watchdog import GVISOR_BYTES

DEFAULT = "crun"
RUNSC_RELEASE_MIN = 20240729  # what was tried; 20221219 cannot pass a descriptor
ASKED_S_MAX = 10.0
_THREADS_EACH, _THREADS = 2, 256  # of gVisor's kernel: for a process of the agent's, and always
_VERSION = re.compile(rb"(crun|runsc) version (\S+)")
_RELEASE = re.compile(rb"\d{8}")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RUNSC_OPTIONS = (
    "--ignore-cgroups",  # ours hold it
    "--network=none",
    "--host-uds=open",  # the relay's socket, and the egress proxy's
    "--overlay2=none",  # layers are the stage's
    "--platform=systrap",
)


@dataclass(frozen=True)
class Runtime:
    path: Path
    version: str
    is_gvisor: bool = False

    def held(self, limits: Limits) -> Limits:
        """What a cgroup holds, in which gVisor's kernel is too."""
        if not self.is_gvisor:
            return limits
        more = {
            "processes": _THREADS_EACH * limits.processes + _THREADS,
            "memory_bytes": limits.memory_bytes + GVISOR_BYTES,
        }
        return limits.model_copy(update=more)

    def words(self, state: Path, bundle: Path, passed: Sequence[int]) -> list[str]:
        """What runs the bundle, and hands the descriptors on by their numbers."""
        root = [str(self.path), "--root", str(state)]
        run = ["run", "--bundle", str(bundle)]
        if self.is_gvisor:
            fds = [f"--pass-fd={number}:{number}" for number in passed]
            return [*root, *_RUNSC_OPTIONS, *run, *fds, "wfhub"]
        fds = ["--preserve-fds", str(max(passed) - 2)]  # 3 is the first of them
        return [*root, "--cgroup-manager", "disabled", *run, *fds, "wfhub"]


def find(name: str) -> Runtime:
    """`name`, or its path."""
    found = shutil.which(name, path=_SYSTEM_PATH)
    if found is None:
        raise Rejected(
            "sandbox-no-runtime", f"there is no {name} here: install crun, or set CONTAINER_RUNTIME"
        )
    try:
        ran = subprocess.run(
            [found, "--version"], capture_output=True, timeout=ASKED_S_MAX, check=True
        )
    except (OSError, subprocess.SubprocessError) as e:
        raise Rejected("sandbox-no-runtime", f"{found} does not run: {e}") from e
    version = _VERSION.match(ran.stdout)
    if version is None:
        said = ran.stdout[:60].decode(errors="replace").strip()
        raise Rejected(
            "sandbox-runtime",
            f"{found} is neither crun nor runsc ({said!r}): only these run a container for an"
            " ordinary uid alone; set CONTAINER_RUNTIME",
        )
    is_gvisor = version[1] == b"runsc"
    release = _RELEASE.search(version[2])
    if is_gvisor and (release is None or int(release[0]) < RUNSC_RELEASE_MIN):
        raise Rejected(
            "sandbox-runtime",
            f"{found} is release {version[2].decode()}, which cannot pass a descriptor:"
            f" {RUNSC_RELEASE_MIN} or newer is wanted (Debian 13 has it)",
        )
    return Runtime(Path(found), f"{version[1].decode()} {version[2].decode()}", is_gvisor)
