"""Credentials for remotes: which one belongs to a URL, read when it is needed and not before.

Shape (GIT_CREDENTIALS_FILE, or the same text in GIT_CREDENTIALS):
    {"credentials": [
      {"match": "https://git.example.org/acme", "username": "bot", "password_file": "/run/…"},
      {"match": "ssh://git@git.example.org", "private_key_file": "/run/secrets/deploy-key"},
      {"match": "https://github.com/acme", "github_app": {"app_id": "1", "installation_id": "2",
       "private_key_file": "/run/secrets/app.pem"}}]}
`match` is a prefix, on whole parts of the path; the longest one counts. `"forge": {"kind": …}` says
what an https host is, for pull requests (github, gitlab, gitea; `api_url` where it is unusual).
Each `…_file` may be given as the value itself (`password`, `private_key`) instead.
Raises: Rejected (`git-credentials`), which never shows a value.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wfhub_common.errors import Rejected

from wfhub_agent_runner.gitwork.remote import url
from wfhub_agent_runner.gitwork.remote.url import Remote

FILE_BYTES_MAX = 64 * 1024
ENTRIES_MAX = 1000
FORGES = ("github", "gitlab", "gitea")
_KINDS = ("password", "private_key", "github_app")


@dataclass(frozen=True)
class GitHubApp:
    app_id: str
    installation_id: str
    private_key: str = field(repr=False)
    api_url: str = "https://api.github.com"


@dataclass(frozen=True)
class Forge:
    """What answers for pull requests; `api_url` empty: at its usual place on the host."""

    kind: str
    api_url: str = ""


@dataclass(frozen=True)
class Secret:
    """What opens one remote; empty: it is tried without."""

    username: str = ""
    password: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    github_app: GitHubApp | None = None
    forge: Forge | None = None

    def masked(self, text: str) -> str:
        for hidden in (self.password, self.private_key):
            if len(hidden) > 3:
                text = text.replace(hidden, "***")
        return text


def check(text: str) -> None:
    """Every entry, and that its files can be read: at start, where an operator looks."""
    for number, entry in enumerate(_entries(text), 1):
        _matches(entry, number)
        _secret(entry, number)


def find(remote: Remote, text: str) -> Secret:
    """The secret of the longest match; none matches: an empty one."""
    best: tuple[int, int, Mapping[str, Any]] | None = None
    for number, entry in enumerate(_entries(text), 1):
        prefix = _matches(entry, number)
        if _covers(prefix, remote) and (best is None or len(prefix.path) > best[0]):
            best = (len(prefix.path), number, entry)
    return Secret() if best is None else _secret(best[2], best[1])


def _covers(prefix: Remote, remote: Remote) -> bool:
    here = (prefix.scheme, prefix.host, prefix.port) == (remote.scheme, remote.host, remote.port)
    user = not prefix.user or prefix.user == remote.user
    path = remote.path if remote.path.startswith("/") else f"/{remote.path}"
    return here and user and f"{path}/".startswith(f"{prefix.path}/")


def _entries(text: str) -> list[Mapping[str, Any]]:
    if not text.strip():
        return []
    try:
        document = json.loads(text)
        entries = document["credentials"]
        if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
            if len(entries) <= ENTRIES_MAX:
                return entries
            raise _bad(f"at most {ENTRIES_MAX} entries are read")
    except (ValueError, KeyError, TypeError) as e:
        raise _bad(f"it is not JSON of the documented shape ({type(e).__name__})") from e
    raise _bad('it must be {"credentials": [{…}, …]}')


def _matches(entry: Mapping[str, Any], number: int) -> Remote:
    """The prefix as a remote; its path may be empty."""
    match = entry.get("match")
    try:
        if isinstance(match, str):
            found = url.parse(match.rstrip("/") + "/-all-")
            if found is not None:
                path = found.path if found.path.startswith("/") else f"/{found.path}"
                shown = found.user if "@" in match else ""
                path = path.removesuffix("/-all-")
                return Remote(found.scheme, found.host, found.port, path, shown)
    except Rejected as e:
        raise _bad(f"entry {number}: 'match': {e.message}") from e
    raise _bad(f"entry {number}: 'match' must begin with https:// or ssh://")


def _forge(entry: Mapping[str, Any], number: int) -> Forge | None:
    told = entry.get("forge")
    if told is None:
        return None
    if isinstance(told, dict) and told.get("kind") in FORGES:
        return Forge(told["kind"], str(told.get("api_url", "")).rstrip("/"))
    raise _bad(f'entry {number}: forge is {{"kind": one of {", ".join(FORGES)}}}')


def _secret(entry: Mapping[str, Any], number: int) -> Secret:
    return replace(_opening(entry, number), forge=_forge(entry, number))


def _opening(entry: Mapping[str, Any], number: int) -> Secret:
    given = [kind for kind in _KINDS if kind in entry or f"{kind}_file" in entry]
    unknown = (
        set(entry)
        - {"match", "username", "github_app", "forge"}
        - {f"{kind}{suffix}" for kind in _KINDS[:2] for suffix in ("", "_file")}
    )
    if len(given) != 1 or unknown:
        raise _bad(
            f"entry {number}: it has one of password(_file), private_key(_file) or github_app,"
            f" and no {', '.join(sorted(unknown)) or 'other'}"
        )
    match given[0]:
        case "password":
            name = str(entry.get("username", "x-access-token"))
            return Secret(username=name, password=_value(entry, "password", number).strip())
        case "private_key":
            return Secret(private_key=_value(entry, "private_key", number))
    app = entry["github_app"]
    if not isinstance(app, dict) or not {"app_id", "installation_id"} <= set(app):
        raise _bad(f"entry {number}: github_app has app_id, installation_id, private_key_file")
    return Secret(
        username="x-access-token",
        github_app=GitHubApp(
            str(app["app_id"]),
            str(app["installation_id"]),
            _value(app, "private_key", number),
            str(app.get("api_url", GitHubApp.api_url)).rstrip("/"),
        ),
    )


def _value(entry: Mapping[str, Any], name: str, number: int) -> str:
    if isinstance(entry.get(name), str):
        return str(entry[name])
    file = entry.get(f"{name}_file")
    if not isinstance(file, str):
        raise _bad(f"entry {number}: {name} or {name}_file is missing")
    try:
        with Path(file).open(encoding="utf-8") as f:
            text = f.read(FILE_BYTES_MAX)
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is not text"
        raise _bad(f"entry {number}: {name}_file {file} cannot be read ({why})") from e
    if not text.strip():
        raise _bad(f"entry {number}: {name}_file {file} is empty")
    return text


def _bad(why: str) -> Rejected:
    return Rejected("git-credentials", f"the runner's git credentials cannot be used: {why}")
