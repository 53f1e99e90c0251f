"""Rules: what a reviewer is told of the CI files that a result changes. Pure.

Believed is the runner that did the attempt: it says which they are, or that nobody can tell, and
lists what was changed, in which we look again, with the table of our own version. One of the
version before says nothing; if its list is cut short too, nobody knows, and a person looks.
"""

from wfhub_common.ci_files import is_ci_file
from wfhub_common.messages import RunnerObservations

FILES_NAMED_MAX = 10
NAME_CHARS_MAX = 120
WHY_CHARS_MAX = 500
_WAY_OUT = "look at them before the branch is there for CI to run (ci_files of the project)"


def said(observed: RunnerObservations) -> str:
    """A sentence; empty: there are none."""
    found = set(observed.ci_files or ())
    found |= {change.path for change in observed.changes if is_ci_file(change.path)}
    if count := max(len(found), observed.ci_files_total):
        named = sorted(found)[:FILES_NAMED_MAX]
        rest = f" and {count - len(named)} more" if count > len(named) else ""
        return f"CI files are changed: {', '.join(map(_shown, named))}{rest}; {_WAY_OUT}"
    if observed.ci_files_unclear:
        why = observed.ci_files_unclear[:WHY_CHARS_MAX]
        return f"CI files may be changed, since what they bring in is unclear: {why}; {_WAY_OUT}"
    if observed.ci_files is None and observed.changes_total > len(observed.changes):
        return (
            f"CI files may be changed: the runner listed {len(observed.changes)} of"
            f" {observed.changes_total} changes and does not know of CI files; {_WAY_OUT}"
        )
    return ""


def _shown(path: str) -> str:
    """Quoted: a name may hold what a terminal or a list of names would take for something else."""
    quoted = repr(path)
    return quoted if len(quoted) <= NAME_CHARS_MAX else f"{quoted[: NAME_CHARS_MAX - 2]}…'"
