"""Whether gVisor (runsc) starts here for this uid, and what keeps it from running tasks (ADR 41).

A run with runsc in crun's place passed most of the sandbox's tests, and was refused by the runner's
own escape probes. So no setting chooses it yet, and this only finds out how far it gets.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAME = "runsc"
RELEASE_MIN = 20240729  # what was tried; 20221219 cannot pass a descriptor
TRIAL_S_MAX = 30.0
HELD_BACK = (
    "it runs as no backend: of the escape probes, new-user-namespace and trace-a-process are"
    " answered by its own kernel, which allows them and never sees our seccomp program;"
    " write-kernel-settings finds its sysrq-trigger writable; gain-by-setuid finds no word of"
    " no_new_privs"
)
_VERSION = re.compile(rb"runsc version (\S*?(\d{8})\S*)")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Found:
    """`starts`: a program ran in it, for this uid and without network."""

    why: str
    version: str = ""
    starts: bool = False


def found(folder: Path, program: str = NAME) -> Found:
    """`folder`: for what it notes while it runs."""
    path = shutil.which(program, path=_SYSTEM_PATH)
    if path is None:
        return Found(f"there is no {program} here, and where there is: {HELD_BACK}")
    told = _ran([path, "--version"])
    version = _VERSION.search(told.stdout)
    if version is None:
        return Found(f"{path} does not say its version: {_said(told)}")
    name = version[1].decode()
    if int(version[2]) < RELEASE_MIN:
        why = f"{path} is {name}, which cannot pass a descriptor: Debian 13's {RELEASE_MIN} can"
        return Found(why, name)
    options = ("--root", str(folder), "--rootless", "--ignore-cgroups", "--network=none")
    trial = _ran([path, *options, "do", "/bin/true"])
    if trial.returncode:
        return Found(f"{path} {name} does not start for this uid: {_said(trial)}", name)
    return Found(f"{path} {name} starts here, but {HELD_BACK}", name, starts=True)


def _ran(argv: list[str]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(argv, capture_output=True, timeout=TRIAL_S_MAX, check=False)
    except (OSError, subprocess.TimeoutExpired) as e:
        return subprocess.CompletedProcess(argv, 1, b"", str(e).encode())


def _said(ran: subprocess.CompletedProcess[bytes]) -> str:
    lines = ran.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"exit code {ran.returncode}"
