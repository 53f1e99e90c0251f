"""The self-test's task: a repository with a small defect, the same commit everywhere, and a check.

`sh check.sh` fails until total.sh adds its arguments up.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from dulwich.index import commit_tree
from dulwich.objects import Blob, Commit
from dulwich.refs import Ref
from dulwich.repo import Repo

PROMPT = "`sh check.sh` fails. Find out why, repair total.sh, and run the check again."
CHECK = "sh check.sh"
TITLE = "Agent self-test"
DEFECT = "  sum=$number"
REPAIR = "  sum=$((sum + number))"
MADE_AT = 1_767_225_600  # 2026-01-01
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
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Repo.init(str(folder), default_branch=b"main") as repo:
        entries = []
        for name, text in files.items():
            blob = Blob.from_string(text.encode())
            repo.object_store.add_object(blob)
            entries.append((name.encode(), blob.id, 0o100644))
        commit = Commit()
        commit.tree = commit_tree(repo.object_store, entries)
        commit.author = commit.committer = AUTHOR
        commit.author_time = commit.commit_time = MADE_AT
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = b"A sum that is none\n"
        repo.object_store.add_object(commit)
        repo.refs[Ref(b"refs/heads/main")] = commit.id
        repo.get_worktree().reset_index(commit.tree)
        return commit.id.decode()
