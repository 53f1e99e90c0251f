"""Pull requests on GitHub, GitLab and Gitea: one port, an adapter for each, plain HTTP.

A request is looked for by its head branch before it is made, in any state: one that was closed or
merged is not opened a second time. Whoever was first wins a race; the other finds it.
Source: GitHub REST "Pulls", GitLab REST "Merge requests API", Gitea's /api/v1 (swagger).
Raises: Rejected (`pull-request-refused`, `forge-unknown`), RetryLater (`forge-unavailable`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from wfhub_common.errors import Rejected, RetryLater

from wfhub_agent_runner.gitwork.outcomes import PullRequest
from wfhub_agent_runner.gitwork.remote.credentials import Forge
from wfhub_agent_runner.gitwork.remote.url import Remote

TIMEOUT_S = 30.0
_EXISTS = (409, 422)  # said when there is one already; and of other things too
_KNOWN = {"github.com": "github", "gitlab.com": "gitlab", "gitea.com": "gitea"}
_MESSAGE_CHARS_MAX = 300
T = TypeVar("T")
_JSON = MappingProxyType({"Accept": "application/json"})


@dataclass(frozen=True)
class Wanted:
    """`head` and `target` are branch names without refs/heads/."""

    head: str
    target: str
    title: str
    body: str
    draft: bool


class GitHub:
    headers: Mapping[str, str] = MappingProxyType(
        {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
    )

    def __init__(self, api: str, path: str) -> None:
        self._owner = path.split("/")[0]
        self._pulls = f"{api}/repos/{quote(path)}/pulls"

    def found(self, wanted: Wanted) -> httpx.Request:
        head = f"{self._owner}:{wanted.head}"
        return httpx.Request("GET", self._pulls, params={"head": head, "state": "all"})

    def first(self, answer: Any, wanted: Wanted) -> dict[str, Any] | None:
        return next((pull for pull in answer if pull["head"]["ref"] == wanted.head), None)

    def creation(self, wanted: Wanted) -> httpx.Request:
        body = {
            "head": wanted.head,
            "base": wanted.target,
            "title": wanted.title,
            "body": wanted.body,
            "draft": wanted.draft,
        }
        return httpx.Request("POST", self._pulls, json=body)

    def shown(self, made: dict[str, Any]) -> tuple[int, str]:
        return int(made["number"]), str(made["html_url"])


class Gitea(GitHub):
    """As GitHub, but found by both branches in the path, and drafts are told by their title."""

    headers: Mapping[str, str] = _JSON

    def found(self, wanted: Wanted) -> httpx.Request:
        branches = f"{quote(wanted.target, safe='')}/{quote(wanted.head, safe='')}"
        return httpx.Request("GET", f"{self._pulls}/{branches}")

    def first(self, answer: Any, wanted: Wanted) -> dict[str, Any] | None:
        return dict(answer) if answer else None

    def creation(self, wanted: Wanted) -> httpx.Request:
        title = f"WIP: {wanted.title}" if wanted.draft else wanted.title
        body = {
            "head": wanted.head,
            "base": wanted.target,
            "title": title,
            "body": wanted.body,
        }
        return httpx.Request("POST", self._pulls, json=body)


class GitLab:
    headers: Mapping[str, str] = _JSON

    def __init__(self, api: str, path: str) -> None:
        self._requests = f"{api}/projects/{quote(path, safe='')}/merge_requests"

    def found(self, wanted: Wanted) -> httpx.Request:
        asked = {"source_branch": wanted.head, "state": "all"}
        return httpx.Request("GET", self._requests, params=asked)

    def first(self, answer: Any, wanted: Wanted) -> dict[str, Any] | None:
        return next((made for made in answer if made["source_branch"] == wanted.head), None)

    def creation(self, wanted: Wanted) -> httpx.Request:
        body = {
            "source_branch": wanted.head,
            "target_branch": wanted.target,
            "title": f"Draft: {wanted.title}" if wanted.draft else wanted.title,
            "description": wanted.body,
        }
        return httpx.Request("POST", self._requests, json=body)

    def shown(self, made: dict[str, Any]) -> tuple[int, str]:
        return int(made["iid"]), str(made["web_url"])


_ADAPTERS: dict[str, tuple[type[GitHub] | type[GitLab], str]] = {
    "github": (GitHub, "/api/v3"),
    "gitlab": (GitLab, "/api/v4"),
    "gitea": (Gitea, "/api/v1"),
}


def adapter(remote: Remote, forge: Forge | None) -> GitHub | GitLab:
    kind = forge.kind if forge else _KNOWN.get(remote.host, "")
    if kind not in _ADAPTERS:
        raise Rejected(
            "forge-unknown",
            f"pull requests on {remote.host} need to know what it is: give its entry in"
            ' GIT_CREDENTIALS_FILE "forge": {"kind": "github" | "gitlab" | "gitea"}',
        )
    made, below = _ADAPTERS[kind]
    host = f"[{remote.host}]" if ":" in remote.host else remote.host
    ours = remote.authority if remote.scheme == "https" else host
    default = "https://api.github.com" if remote.host == "github.com" else f"https://{ours}{below}"
    path = remote.path.strip("/").removesuffix(".git")
    return made((forge.api_url if forge else "") or default, path)


def open_once(
    speaks: GitHub | GitLab, wanted: Wanted, token: str, transport: httpx.BaseTransport
) -> PullRequest:
    """The pull request for that head: found, or made."""
    headers = {"Authorization": f"Bearer {token}", **speaks.headers}
    with httpx.Client(timeout=TIMEOUT_S, transport=transport, headers=headers) as http:
        if there := _looked(http, speaks, wanted):
            return there
        answer = _sent(http, speaks.creation(wanted))
        if answer.status_code in (200, 201):
            made = _read(answer, speaks.shown)
            return PullRequest(*made, created=True)
        if answer.status_code in _EXISTS and (there := _looked(http, speaks, wanted)):
            return there
        raise _refused(answer)


def _looked(http: httpx.Client, speaks: GitHub | GitLab, wanted: Wanted) -> PullRequest | None:
    answer = _sent(http, speaks.found(wanted))
    if answer.status_code == 404:
        return None  # Gitea: none for these branches; elsewhere the creation will say it again
    if answer.status_code != 200:
        raise _refused(answer)

    def there(said: Any) -> PullRequest | None:
        found = speaks.first(said, wanted)
        return None if found is None else PullRequest(*speaks.shown(found), created=False)

    return _read(answer, there)


def _read(answer: httpx.Response, told: Callable[[Any], T]) -> T:
    """What `told` finds in its JSON. GitLab's and Gitea's descriptions promise no field at all."""
    try:
        return told(answer.json())
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise _unavailable(answer.request, f"an answer of another shape ({e!r})") from e


def _sent(http: httpx.Client, request: httpx.Request) -> httpx.Response:
    request.headers.update(http.headers)
    try:
        answer = http.send(request)
    except httpx.HTTPError as e:
        raise _unavailable(request, str(e) or type(e).__name__) from e
    if answer.status_code == 429 or answer.status_code >= 500:
        raise _unavailable(request, f"HTTP {answer.status_code}")
    return answer


def _unavailable(request: httpx.Request, why: str) -> RetryLater:
    return RetryLater("forge-unavailable", f"{request.url.host}: {why}")


def _refused(answer: httpx.Response) -> Rejected:
    said = " ".join(answer.text.split())[:_MESSAGE_CHARS_MAX]
    return Rejected(
        "pull-request-refused",
        f"{answer.request.url.host} refuses the pull request (HTTP {answer.status_code}: {said});"
        " check the token's rights and the target branch",
    )
