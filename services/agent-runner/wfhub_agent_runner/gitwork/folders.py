"""Folders below WORKSPACE_ROOT, and which project may use which (WORKSPACE_FOLDERS).

Rules are split by ';': `team/app=web,mobile` lets two projects use that folder and all below it,
`shared:ro=*` lets every project read one. The rule of the longest folder that holds the wanted one
decides, by where the folder really lies; where there are rules and none fits, it is refused.
Raises: Rejected (`workspace-root-unset`, `repo-forbidden`, `folder-read-only`, `repo-not-found`);
ValueError for a rule that cannot be read.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from wfhub_common.errors import Rejected
from wfhub_common.workspace_folders import MOUNT, FolderName

from wfhub_agent_runner.gitwork.location import Layout, Policy, Roots, layout_of, resolved

_EVERY = "*"


@dataclass(frozen=True)
class Directory:
    """A plain folder."""

    path: Path


@dataclass(frozen=True)
class Rule:
    folder: PurePosixPath  # relative to WORKSPACE_ROOT
    read_only: bool
    projects: frozenset[str]


def parse_rules(text: str) -> tuple[Rule, ...]:
    return tuple(_rule(part.strip()) for part in text.split(";") if part.strip())


def _rule(text: str) -> Rule:
    name, equals, projects = text.partition("=")
    folder, colon, mode = name.strip().partition(":")
    wanted = frozenset(part.strip() for part in projects.split(",") if part.strip())
    path = PurePosixPath(folder)
    if not equals or not wanted or path.is_absolute() or ".." in path.parts or not folder:
        raise ValueError(f"{text!r} is no rule; write folder=project,project or folder:ro=*")
    if colon and mode != "ro":
        raise ValueError(f"{text!r}: what follows the folder may only be ':ro'")
    return Rule(path, bool(colon), wanted)


def located(name: FolderName, policy: Policy, *, project: str, writes: bool) -> Layout | Directory:
    """`writes`: the folder's own files, or a branch. A repository always gets a branch."""
    if not policy.workspace_root:
        raise Rejected(
            "workspace-root-unset",
            f"{name} lies below WORKSPACE_ROOT, which this runner has not; set it, or name a pool"
            " whose runners have it",
        )
    roots = Roots("WORKSPACE_ROOT", (policy.workspace_root,))
    top = Path(policy.workspace_root).resolve()
    found = resolved(top / name.path, str(name), roots)
    _check_rules(found.relative_to(top), name, policy, project, writes or name.kind == MOUNT)
    if name.kind == MOUNT:
        return layout_of(found, str(name), roots)
    if not found.is_dir():
        raise Rejected("repo-not-found", f"{name} is not a folder; check the path", repo=str(name))
    return Directory(found)


def _check_rules(inner: Path, name: FolderName, policy: Policy, project: str, writes: bool) -> None:
    rules = parse_rules(policy.workspace_folders)
    if not rules:
        return
    fitting = [rule for rule in rules if inner.is_relative_to(rule.folder)]
    rule = max(fitting, key=lambda rule: len(rule.folder.parts), default=None)
    if rule is None or not rule.projects & {_EVERY, project}:
        raise Rejected(
            "repo-forbidden",
            f"project {project or '(none)'} may not use {name}; WORKSPACE_FOLDERS of the runner"
            " says who may",
        )
    if rule.read_only and writes:
        raise Rejected(
            "folder-read-only",
            f"{name} may only be read: use directory:{name.path} without apply, the result is"
            " then kept as a patch",
        )
