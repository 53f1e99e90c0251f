"""A Git host over https for containers: `python git_host.py FOLDER ADDRESS`, until its input ends.

Prints one JSON line: its name (host and port), the one user and password, its authority in PEM, and
an SSH key that no host has.
"""

import json
import sys
from pathlib import Path

import git_hosts
import paramiko

if __name__ == "__main__":
    folder, address = sys.argv[1:]
    with git_hosts.https(Path(folder), address) as host:
        about = {"name": host.name, "user": host.user, "password": host.password, "ca": host.ca}
        key = paramiko.ECDSAKey.generate()
        about["key"] = f"{key.get_name()} {key.get_base64()}"
        print(json.dumps(about), flush=True)
        sys.stdin.read()
