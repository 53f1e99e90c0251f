"""The web page's files over HTTP: headers, caching, and that nothing else is served."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from wfhub_api import page_files

FILES = page_files.read()
POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
}
OTHER_PATHS = (
    "/page",
    "/page/",
    "/page/index.html",
    "/page/../app.py",
    "/page/..%2fapp.py",
    "/page/%2e%2e/app.py",
    "/page/%2e%2e%2fsettings.py",
    "/page//main.js",
    "/page/main.js/",
    "/page/main.js%00",
    "/page/Main.js",
    "//",
    "/index.html",
    "/favicon.ico",
)
# What makes markup or a program of a text, or keeps the token where others find it.
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|DOMParser|\beval\b"
    r"|new Function|setTimeout\(\s*[\"'`]|localStorage|indexedDB|document\.cookie|javascript:"
)


@pytest.fixture
async def anyone(hub: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as client:
        yield client


async def test_every_file_is_served_without_a_token_and_under_the_policy(
    anyone: httpx.AsyncClient,
) -> None:
    assert {"/", "/page/main.js", "/page/base.css", "/page/icon.svg"} <= set(FILES)
    for path, file in FILES.items():
        answer = await anyone.get(path)
        assert (answer.status_code, answer.content) == (200, file.content), path
        assert answer.headers["content-type"] == file.media_type
        assert set(answer.headers["content-security-policy"].split("; ")) == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert "set-cookie" not in answer.headers


async def test_a_file_that_is_the_same_is_not_sent_again(anyone: httpx.AsyncClient) -> None:
    first = await anyone.get("/page/main.js")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"x", W/{first.headers["etag"]}'):
        again = await anyone.get("/page/main.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert "content-security-policy" in again.headers
    other = await anyone.get("/", headers={"If-None-Match": first.headers["etag"]})
    assert other.status_code == 200
    head = await anyone.head("/")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.hostile(16)
async def test_nothing_beside_them_is_served(hub: Any, anyone: httpx.AsyncClient) -> None:
    for path in OTHER_PATHS:
        assert (await raw(anyone, path)).status_code == 401, path
        assert (await raw(hub.http, path)).status_code == 404, path


async def raw(client: httpx.AsyncClient, path: str) -> httpx.Response:
    """As it is written: httpx would take the dots out."""
    request = client.build_request("GET", "/x")
    request.url = request.url.copy_with(raw_path=path.encode())
    return await client.send(request)


async def test_the_page_takes_nothing(anyone: httpx.AsyncClient) -> None:
    answer = await anyone.post("/", json={"token": "wht_x"})
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_api_is_as_closed_as_before_and_does_not_describe_the_page(
    hub: Any, anyone: httpx.AsyncClient
) -> None:
    for path in ("/v1/tasks", "/openapi.json", "/docs"):
        assert (await anyone.get(path)).status_code == 401
    paths = (await hub.http.get("/openapi.json")).json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/page")]
    answer = await hub.http.get("/v1/tasks")
    assert answer.headers["cache-control"] == "no-store"
    assert "sandbox" in answer.headers["content-security-policy"]


def test_the_files_name_no_other_place_and_make_no_markup_of_texts() -> None:
    for path, file in FILES.items():
        text = file.content.decode()
        places = set(re.findall(r"\w+://[^\s\"'`<>)]*", text))
        assert places <= {"http://www.w3.org/2000/svg", "https://git.example.org/acme/app.git"}, (
            path
        )
        assert not FORBIDDEN.search(text), (path, FORBIDDEN.search(text))
        assert not re.search(r"<[^>]+\s(style|on\w+)=|<style", text), path
        assert len(text.splitlines()) <= 400, path


def test_each_file_that_another_one_names_is_there() -> None:
    named = set()
    for path, file in FILES.items():
        text = file.content.decode()
        imported = re.findall(r'from "\./([^"]+)"', text)
        named |= {f"/page/{name}" for name in imported}
        named |= set(re.findall(r'(?:href|src)="(/page/[^"]+)"', text))
        for names, source in re.findall(r'import \{([^}]+)\} from "\./([^"]+)"', text):
            exported = FILES[f"/page/{source}"].content.decode()
            for name in names.split(","):
                what = re.escape(name.split(" as ")[0].strip())
                pattern = rf"export (?:async )?(?:function\*? |const |class ){what}\b"
                assert re.search(pattern, exported), f"{path}: {name.strip()} of {source}"
    assert named == set(FILES) - {"/"}


async def test_tasks_are_counted_by_state(hub: Any) -> None:
    for state in ("failed", "failed", "review"):
        await hub.scheduler.task(state=state)
    counts = (await hub.http.get("/v1/tasks:counts")).json()["counts"]
    assert {state: n for state, n in counts.items() if n} == {"failed": 2, "review": 1}
    assert len(counts) == 9
    of_another = await hub.http.get("/v1/tasks:counts", params={"project": "other"})
    assert set(of_another.json()["counts"].values()) == {0}
    flow = await hub.http.post("/v1/workflows", json={"name": "w", "tasks": {"a": {"repo": "/r"}}})
    of_flow = {"workflow": flow.json()["workflow_id"]}
    none = (await hub.http.get("/v1/tasks:counts", params=of_flow)).json()["counts"]
    assert set(none.values()) == {0}
    assert (await hub.http.get("/v1/tasks:counts?workflow=x")).status_code == 422


async def test_projects_are_listed_with_what_runs_and_waits(hub: Any) -> None:
    (project,) = (await hub.http.get("/v1/projects")).json()["projects"]
    assert (project["name"], project["running"], project["queued"]) == ("default", 0, 0)
