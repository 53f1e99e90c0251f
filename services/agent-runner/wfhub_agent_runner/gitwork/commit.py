"""The commit of an attempt: one, on its base, the same for the same inputs."""

import re
from dataclasses import dataclass
from datetime import datetime

from dulwich.objects import Commit, ObjectID

IDENTITY = b"Workflow Hub <wfhub@localhost>"
_SUBJECT_CHARS_MAX = 72
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True)
class About:
    """What a commit says of its origin. `when` is aware; whole seconds are used."""

    task_id: str
    attempt_id: str
    title: str
    prompt: str
    when: datetime

    @property
    def branch_ref(self) -> str:
        return f"refs/heads/wfhub/{self.task_id}"

    @property
    def marker_ref(self) -> str:
        return f"refs/wfhub/published/{self.task_id}"


def subject(about: About) -> str:
    """One printable line of at most 72 characters."""
    first = next((line for line in about.prompt.splitlines() if line.strip()), "")
    said = _UNPRINTABLE.sub(" ", about.title or first).strip() or f"Work on {about.task_id}"
    if len(said) > _SUBJECT_CHARS_MAX:
        said = said[: _SUBJECT_CHARS_MAX - 1].rstrip() + "…"
    return said


def message(about: About) -> str:
    return f"{subject(about)}\n\nWfhub-Task: {about.task_id}\nWfhub-Attempt: {about.attempt_id}\n"


def build(tree: ObjectID, base: ObjectID, about: About) -> Commit:
    commit = Commit()
    commit.tree = tree
    commit.parents = [base]
    commit.author = commit.committer = IDENTITY
    commit.author_time = commit.commit_time = int(about.when.timestamp())
    commit.author_timezone = commit.commit_timezone = 0
    commit.encoding = b"UTF-8"
    commit.message = message(about).encode("utf-8", "replace")
    return commit
