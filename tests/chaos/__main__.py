"""`make chaos`: SEED=… TASKS=… MINUTES=… [SHORT=1] [FAULTS=kind,…]; last a line of JSON.

Ends with 1 when an invariant was violated, or when a kind of fault never fell into its window.
The folder with histories, logs and evidence stays then, or when KEEP=1 or CHAOS_DIR is set.
"""

import asyncio
import json
import os
import shutil
import sys

from wfhub_common import log

from chaos.run import Run, say
from chaos.settings import from_env


def main() -> None:
    log.configure("chaos", level="ERROR", format_="text")
    options = from_env(os.environ)
    say(f"seed {options.seed}, {options.tasks} tasks, {options.minutes:g} min of faults")
    summary = asyncio.run(Run(options).go())
    failed = bool(summary["violations"] or summary["never_counted"])
    if failed or options.keep:
        say(f"histories, logs and evidence: {options.folder}")
    else:
        shutil.rmtree(options.folder, ignore_errors=True)
    print(json.dumps(summary))
    sys.exit(1 if failed else 0)


main()
