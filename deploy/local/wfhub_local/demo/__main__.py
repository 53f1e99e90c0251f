"""`python -m wfhub_local.demo`: run the demo, say what it came to.

Exit codes: 0 it ended as its mode should (replay and live: the defect is repaired and proven;
local: that, or an honest failure); 1 it did not; 2 it could not be prepared.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from wfhub_local.demo import driver, modes, report
from wfhub_local.demo.commands import CommandFailed, say
from wfhub_local.demo.folder import DEFAULT_FOLDER, Folder
from wfhub_local.demo.sources import CannotPrepare

AS_EXPECTED, NOT_AS_EXPECTED, NOT_PREPARED = 0, 1, 2


def main() -> int:
    variable, default = DEFAULT_FOLDER
    parser = argparse.ArgumentParser(prog="python -m wfhub_local.demo")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(os.environ.get(variable) or default),
        help=f"where everything is kept [{variable}], default {default}",
    )
    parser.add_argument(
        "--model",
        choices=modes.MODES,
        default=modes.default_name(os.environ),
        help="replay; live: as LLM_PROVIDER and LLM_BASE_URL say; local: a small model here",
    )
    parser.add_argument(
        "--prepare", action="store_true", help="only fetch what a run needs from the network"
    )
    asked = parser.parse_args()
    # As Ctrl-C does: what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Folder(asked.folder.absolute())
    try:
        folder.prepare()
        if asked.prepare:
            say(f"prepared: {folder.path}")
            return AS_EXPECTED
        outcome = driver.run(folder, asked.model, os.environ)
    except CannotPrepare as e:
        print(f"demo: {e}", file=sys.stderr)
        return NOT_PREPARED
    except CommandFailed as e:
        print(f"demo: {e}; logs are in {folder.data / 'logs'}", file=sys.stderr)
        return NOT_AS_EXPECTED
    say(*report.lines(outcome))
    return AS_EXPECTED if outcome.as_expected else NOT_AS_EXPECTED


if __name__ == "__main__":
    sys.exit(main())
