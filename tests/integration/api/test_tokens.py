"""Tokens over REST and at the prompt: for the admin's own token alone."""

from typing import Any

import httpx
import pytest
from wfhub_api import tokens

PATH = "/v1/tokens"


async def made(hub: Any, name: str = "bob") -> dict[str, str]:
    answer = await hub.http.post(PATH, json={"name": name})
    assert answer.status_code == 201, answer.text
    found: dict[str, str] = answer.json()
    return found


async def status(hub: Any, token: str, method: str = "GET", path: str = "/v1/tasks") -> int:
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=hub.url, headers=headers, trust_env=False) as somebody:
        return (await somebody.request(method, path)).status_code


async def test_a_token_is_made_shown_once_and_opens_until_it_is_revoked(hub: Any) -> None:
    one, other = await made(hub), await made(hub, "CI of the app")
    assert await status(hub, one["token"]) == 200
    listed = await hub.http.get(PATH)
    assert [row["name"] for row in listed.json()["tokens"]] == ["bob", "CI of the app"]
    assert "wht_" not in listed.text
    assert (await hub.http.delete(f"{PATH}/{one['token_id']}")).status_code == 204
    assert await status(hub, one["token"]) == 401
    assert await status(hub, other["token"]) == 200
    again = await hub.http.delete(f"{PATH}/{one['token_id']}")
    assert (again.status_code, again.json()["code"]) == (404, "token-not-found")
    left = (await hub.http.get(PATH)).json()["tokens"]
    assert [row["token_id"] for row in left] == [other["token_id"]]


@pytest.mark.hostile(16)
async def test_a_token_that_was_made_makes_sees_and_revokes_none(hub: Any) -> None:
    bob, alice = await made(hub), await made(hub, "alice")
    for method, path in (
        ("GET", PATH),
        ("POST", PATH),
        ("DELETE", f"{PATH}/{alice['token_id']}"),
        ("DELETE", f"{PATH}/{bob['token_id']}"),
    ):
        assert await status(hub, bob["token"], method, path) == 403
    assert await status(hub, alice["token"]) == 200
    assert await status(hub, "wht_wrong", "GET", PATH) == 401


async def test_a_name_says_who_and_is_nobody_elses(
    hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("admin", "", " ", "bob ", "a\nb", "a\x00", "\x1b[2J", "x" * 101, 7, None):
        answer = await hub.http.post(PATH, json={"name": name})
        assert answer.status_code == 422, name
    await made(hub, "Zoë of QA")
    monkeypatch.setattr(tokens, "TOKENS_MAX", 1)
    full = await hub.http.post(PATH, json={"name": "bob"})
    assert (full.status_code, full.json()["code"]) == (409, "too-many-tokens")


async def test_the_command_line_does_the_same(hub: Any) -> None:
    new = await hub.cli("token", "new", "bob")
    token_id, token = new.out.split()
    assert (new.code, await status(hub, token)) == (0, 200)
    assert token_id in (await hub.cli("token", "list")).out
    kept_out = await hub.cli("token", "list", WFHUB_TOKEN=token)
    assert (kept_out.code, "admin's own token" in kept_out.err) == (1, True)
    assert (await hub.cli("token", "revoke", token_id)).code == 0
    assert await status(hub, token) == 401
