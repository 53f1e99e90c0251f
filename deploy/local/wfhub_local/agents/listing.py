"""`wfhub agent list`: the runner's table, and whether each program is found on this machine.

The runner's code runs in a process of its own, as a service would. Found: in the toolchain folders'
bin/ or in the system's folders, which every sandbox has.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

LISTING_S_MAX = 60
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def rows(toolchains: tuple[Path, ...]) -> list[dict[str, Any]]:
    argv = [sys.executable, "-I", "-m", "wfhub_agent_runner.agents"]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=LISTING_S_MAX)
    if done.returncode != 0:
        raise SystemExit(f"the runner's table could not be read ({done.returncode})")
    path = ":".join([*(str(folder / "bin") for folder in toolchains), SYSTEM_PATH])
    return [
        {**row, "found": shutil.which(row["program"], path=path) if row["program"] else ""}
        for row in json.loads(done.stdout)
    ]


def text(found: list[dict[str, Any]]) -> str:
    heads = ("agent", "speaks", "from", "version", "program")
    lines = [heads]
    for row in found:
        where = "nothing to find" if not row["program"] else row["found"] or "not found"
        lines.append((row["name"], row["wire"], row["install"], row["version"] or "-", where))
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[-1]])
        for line in lines
    )
