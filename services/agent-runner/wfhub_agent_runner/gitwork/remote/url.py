"""Addresses of remote repositories: what `https://…`, `ssh://…` and `user@host:path` mean (pure).

`parse` gives None for what is no remote (a path, a file URL). A remote has one canonical text,
which names its mirror and is what credentials are matched with.
Raises: Rejected (`repo-forbidden`, `scheme-unsupported`).
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from wfhub_common.errors import Rejected

PORTS = {"https": 443, "ssh": 22}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_HELPER = re.compile(r"[A-Za-z0-9]+::")
_SCP_LIKE = re.compile(r"(?:([^/@:]+)@)?(\[[0-9A-Fa-f:.]+\]|[^/@:\[\]]+):(.*)\Z", re.DOTALL)
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?\Z|[0-9a-f:.]*:[0-9a-f:.]*\Z")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\Z")
_HOST_CHARS_MAX = 253


@dataclass(frozen=True)
class Remote:
    """`path` is as the server gets it: absolute, or relative to the user's home (ssh alone)."""

    scheme: str  # https | ssh
    host: str  # lower case; an IPv6 address without brackets
    port: int
    path: str
    user: str = ""  # of ssh

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        path = self.path if self.path.startswith("/") else f"/~/{self.path}"
        return f"{self.scheme}://{user}{self.authority}{path}"


def parse(repo: str) -> Remote | None:
    if any(c <= " " or c == "\x7f" for c in repo) or _HELPER.match(repo) or repo.startswith("-"):
        return None  # a path may have blanks; `location` refuses the rest
    if scheme := _SCHEME.match(repo):
        name = scheme[1].lower()
        if name == "file":
            return None
        if name not in PORTS:
            raise Rejected(
                "scheme-unsupported",
                f"{name} repositories are not supported; use https or ssh, or a path on the"
                " runner's machine",
                scheme=name,
            )
        return _of_url(repo, name)
    if repo.startswith("/") or not (found := _SCP_LIKE.match(repo)):
        return None
    user, host, path = found[1] or "", found[2].strip("[]"), found[3]
    return _checked("ssh", host, None, path, user or "git")


def web_side(remote: Remote) -> Remote:
    """The same repository by https, as forges serve both."""
    path = remote.path if remote.path.startswith("/") else f"/{remote.path}"
    return Remote("https", remote.host, PORTS["https"], path)


def _of_url(repo: str, scheme: str) -> Remote:
    try:
        parts = urlsplit(repo)
        host, port = parts.hostname or "", parts.port
    except ValueError as e:
        raise _forbidden(f"its address is malformed ({e})") from e
    if parts.query or parts.fragment:
        raise _forbidden("an address has no '?' or '#'")
    if parts.password is not None or (scheme == "https" and parts.username is not None):
        raise _forbidden(
            "a user or password in it would be stored and shown; give it to the runner"
            " (GIT_CREDENTIALS_FILE)"
        )
    return _checked(scheme, host, port, unquote(parts.path), parts.username or "")


def _checked(scheme: str, host: str, port: int | None, path: str, user: str) -> Remote:
    host = host.lower().rstrip(".")
    if not _HOST.match(host) or len(host) > _HOST_CHARS_MAX:
        raise _forbidden("its host is not a host name")
    if scheme == "ssh":
        user = user or "git"
        if not _USER.match(user):
            raise _forbidden("its user is not a user name")
        path = path.removeprefix("/~/")
    path = path.rstrip("/")
    if not path or any(c < " " or c == "\x7f" for c in path):
        raise _forbidden("it names no repository on its host")
    if path.startswith("-") or not {".", ".."}.isdisjoint(path.split("/")) or "//" in path:
        raise _forbidden("its path has empty parts, '.', '..' or begins with '-'")
    return Remote(scheme, host, port or PORTS[scheme], path, user)


def _forbidden(why: str) -> Rejected:
    return Rejected("repo-forbidden", f"this repository may not be used: {why}")
