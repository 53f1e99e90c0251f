"""What `make deploy-test` needs of the machine, said at once: some is used after an hour only.

`python deploy_needs.py` ends with 1 and says what to install. Standard library only: it runs before
anything is installed.
"""

import os
import shutil
import sys
from pathlib import Path

# Program → its Debian package.
DOCKER = {
    "dockerd": "docker.io",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "nsenter": "util-linux",
}
GUEST = {"debootstrap": "debootstrap", "mkfs.ext4": "e2fsprogs"}
CONTAINERS = {"podman": "podman", "crun": "crun"}
OTHERS = {"curl": "curl", "git": "git", "ip": "iproute2", "promtool": "prometheus"}
ROOM_BYTES = 12 * 1024**3  # of images twice, a guest's Debian and its disk


def missing(programs: dict[str, str]) -> str:
    """What stands in the way of what needs `programs`, and root; empty: nothing."""
    found = []
    packages = {package for program, package in programs.items() if shutil.which(program) is None}
    if packages:
        found.append(f"install Debian's packages: apt-get install {' '.join(sorted(packages))}")
    if os.geteuid() != 0:
        found.append("run as root: it starts Docker's daemon and makes files of several owners")
    return "; ".join(found)


def _room() -> str:
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    free = shutil.disk_usage(folder).free
    if free >= ROOM_BYTES:
        return ""
    return f"{folder} has {free >> 30} GiB free and needs {ROOM_BYTES >> 30}: set TMPDIR"


def main() -> int:
    found = [missing({**DOCKER, **GUEST, **CONTAINERS, **OTHERS}), _room()]
    for each in filter(None, found):
        print(f"make deploy-test: {each}", file=sys.stderr)
    return 1 if any(found) else 0


if __name__ == "__main__":
    sys.exit(main())
