"""Where a task's repository lies: on a remote, or a path or file URL, found on disk.

`identity` and `path_of` decide from the text alone; `locate` looks at the disk, resolves symbolic
links and checks the policy again on what it found. No configuration of the repository is read here.
Raises: Rejected (`repo-forbidden`, `scheme-unsupported`, `repo-not-found`,
`repo-not-a-repository`).
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote

from wfhub_common import workspace_folders
from wfhub_common.errors import Rejected
from wfhub_common.workspace_folders import FolderName

from wfhub_agent_runner.gitwork import limits
from wfhub_agent_runner.gitwork.remote import hosts, url

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HELPER = re.compile(r"[A-Za-z0-9]+::")
_SCP_LIKE = re.compile(r"[^/]+:")
_POINTER_BYTES_MAX = 4096 + 16  # a path in a `.git` or `commondir` file


@dataclass(frozen=True)
class Policy:
    """What the operator allows. `roots` empty: repositories may lie anywhere on disk; `hosts`
    empty: on any public host. Files are read by the helper, when it needs them."""

    workspace_root: str = ""
    workspace_folders: str = ""  # rules (folders); empty: every folder, of every project
    file_repos: bool = False
    roots: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    credentials_file: str = ""
    credentials: str = field(default="", repr=False)  # their text itself, from the environment
    known_hosts_file: str = ""
    ca_file: str = ""
    remote_uid: int | None = None  # what a helper that is root becomes for a remote
    timeout_s: float = limits.ACCESS_TIMEOUT_S

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        values = json.loads(text)
        return cls(**{**values, "roots": tuple(values["roots"]), "hosts": tuple(values["hosts"])})


@dataclass(frozen=True)
class Layout:
    """A repository on disk. The two differ for a linked worktree: its HEAD is in `gitdir`,
    objects and branches are in `common`."""

    gitdir: Path
    common: Path
    work_tree: Path | None = None  # None: a bare one


def _forbidden(why: str) -> Rejected:
    return Rejected("repo-forbidden", f"this repository may not be used: {why}")


def identity(repo: str, policy: Policy) -> str:
    """The one text for this repository, which names its mirror: a remote's URL or a path."""
    if folder := folder_name(repo):
        return str(folder)
    if remote := url.parse(repo):
        hosts.check(remote, policy.hosts)
        return str(remote)
    return path_of(repo, policy)


def folder_name(repo: str) -> FolderName | None:
    try:
        return workspace_folders.parse(repo)
    except ValueError as e:
        raise _forbidden(str(e)) from e


def path_of(repo: str, policy: Policy) -> str:
    """The absolute, normalised path that `repo` names."""
    if not repo or any(c < " " for c in repo):
        raise _forbidden("its name is empty or has control characters")
    if repo.startswith("-"):
        raise _forbidden("its name begins with '-'")
    if _HELPER.match(repo):
        raise _forbidden("'<helper>::' addresses run programs")
    if scheme := _SCHEME.match(repo):
        if scheme[1].lower() != "file":
            raise _unsupported(scheme[1])
        host, slash, rest = repo[scheme.end() :].partition("/")
        if host not in ("", "localhost") or not slash:
            raise _forbidden("a file URL is file:///absolute/path")
        path = "/" + unquote(rest, errors="surrogateescape")
    elif repo.startswith("/"):
        path = repo
    elif _SCP_LIKE.match(repo):
        raise _unsupported("ssh")
    else:
        raise _forbidden("a path must be absolute")
    if any(c < " " for c in path):
        raise _forbidden("its name has control characters")
    if not policy.file_repos:
        raise _forbidden("paths and file URLs are off on this runner; set FILE_REPOS=1 to allow")
    return os.path.normpath("/" + path.lstrip("/"))


def _unsupported(scheme: str) -> Rejected:
    return Rejected(
        "scheme-unsupported",
        f"{scheme.lower()} repositories are not supported yet; use a path or a file:// URL"
        " on the runner's machine",
        scheme=scheme.lower(),
    )


def locate(repo: str, policy: Policy) -> Layout:
    roots = Roots("REPO_ROOTS", policy.roots)
    return layout_of(resolved(Path(path_of(repo, policy)), repo, roots), repo, roots)


def layout_of(found: Path, repo: str, roots: "Roots") -> Layout:
    """Of the repository in a folder; all of it must lie below `roots`."""
    if not found.is_dir():
        raise _not_a_repository(repo)
    if _is_gitdir(found):
        gitdir = found
    elif (found / ".git").is_dir():
        gitdir = resolved(found / ".git", repo, roots)
    else:
        gitdir = _pointer(found / ".git", found, b"gitdir: ", repo, roots)
    common = gitdir
    if (gitdir / "commondir").is_file():
        common = _pointer(gitdir / "commondir", gitdir, b"", repo, roots)
    if not ((gitdir / "HEAD").exists() and _is_gitdir(common)):
        raise _not_a_repository(repo)
    return Layout(gitdir, common, None if gitdir == found else found)


def _is_gitdir(path: Path) -> bool:
    return all(_stat_ok(path / part) for part in ("HEAD", "objects", "refs"))


def _stat_ok(path: Path) -> bool:
    return _guarded(lambda: path.exists() or path.is_symlink(), str(path))


def _guarded(look: Callable[[], bool], shown: str) -> bool:
    try:
        return look()
    except PermissionError as e:
        raise _forbidden(f"the runner may not read {shown}; make it readable") from e


@dataclass(frozen=True)
class Roots:
    """Folders that repositories may lie in, by the setting that names them; none: anywhere."""

    setting: str
    folders: tuple[str, ...]

    def check(self, path: Path) -> None:
        if self.folders and not any(
            path.is_relative_to(os.path.realpath(folder)) for folder in self.folders
        ):
            raise _forbidden(f"it lies outside {self.setting}")


def resolved(path: Path, repo: str, roots: Roots) -> Path:
    """Where `path` leads, through every symbolic link."""
    found = _followed(path, repo)
    roots.check(found)
    return found


def _followed(path: Path, repo: str) -> Path:
    try:
        return path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise Rejected(
            "repo-not-found",
            f"there is no {repo!r} on the runner's machine; check the path",
            repo=repo,
        ) from e
    except PermissionError as e:
        raise _forbidden(f"the runner may not read {repo!r}; make it readable") from e
    except (OSError, RuntimeError) as e:  # a loop of links, a name too long
        raise Rejected("repo-not-found", f"{repo!r} cannot be opened: {e}", repo=repo) from e


def _pointer(file: Path, base: Path, prefix: bytes, repo: str, roots: Roots) -> Path:
    """The folder that a `.git` or `commondir` file points to."""
    try:
        with file.open("rb") as f:
            line = f.read(_POINTER_BYTES_MAX)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as e:
        raise _not_a_repository(repo) from e
    except PermissionError as e:
        raise _forbidden(f"the runner may not read {repo!r}; make it readable") from e
    if not line.startswith(prefix) or b"\0" in line:
        raise _not_a_repository(repo)
    pointed = base / os.fsdecode(line.removeprefix(prefix).rstrip(b"\r\n"))
    return resolved(pointed, repo, roots)


def _not_a_repository(repo: str) -> Rejected:
    return Rejected(
        "repo-not-a-repository",
        f"{repo!r} is not a git repository; give its top folder, or run git init in it",
        repo=repo,
    )
