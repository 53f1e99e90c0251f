"""Run inside the sandbox: `python check.py DEFECT` decides whether the defect is repaired.

The tests are those of the repaired release, from beside this file, where nobody can change them;
the code is that of the current directory. Those named in the defect must pass, and all others of
their files that passed before. pytest is imported before the current directory can be searched.
Exit code: pytest's.
"""

import json
import os
import sys
from pathlib import Path

import pytest

here = Path(__file__).resolve().parent
defect = json.loads((here / f"{sys.argv[1]}.json").read_text())
tests = here / sys.argv[1]
sys.path.insert(0, os.getcwd())
sys.dont_write_bytecode = True
options = ["-q", "--tb=short", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={tests}"]
# Named one by one: a test that is not collected is an error, not a success.
named = [str(tests / test) for test in defect["targets"]]
files = sorted({test.split("::")[0] for test in named})
kept = [f"--deselect={test}" for test in (*defect["targets"], *defect["other_failures"])]
sys.exit(pytest.main([*options, *named]) or pytest.main([*options, *kept, *files]))
