"""The self-test's task: a repository with a small defect, the same commit everywhere, and a check.

`sh check.sh` fails until total.sh adds its arguments up.
"""

from collections.abc import Mapping
from pathlib import Path

from wfhub_local.demo import repository
from wfhub_local.demo.sources import SourceFile

PROMPT = "`sh check.sh` fails. Find out why, repair total.sh, and run the check again."
CHECK = "sh check.sh"
TITLE = "Agent self-test"
DEFECT = "  sum=$number"
REPAIR = "  sum=$((sum + number))"
MADE_AT = 1_767_225_600  # 2026-01-01
MESSAGE = b"A sum that is none\n"
AUTHOR = b"Workflow Hub self-test <self-test@workflow-hub.invalid>"

FILES = {
    "total.sh": f"""\
#!/bin/sh
# Prints the sum of its arguments.
sum=0
for number in "$@"; do
{DEFECT}
done
echo "$sum"
""",
    "check.sh": """\
#!/bin/sh
got=$(sh total.sh 1 2 3)
if test "$got" = 6; then
  echo "total of 1 2 3 is 6, as it should be"
else
  echo "total of 1 2 3 is $got, not 6"
  exit 1
fi
""",
}


def make_repository(folder: Path, files: Mapping[str, str] = FILES) -> str:
    """A fresh one, its working tree checked out. Returns HEAD."""
    sources = {name: SourceFile(text.encode(), executable=False) for name, text in files.items()}
    return repository.write(folder, (sources, MESSAGE, MADE_AT), author=AUTHOR)
