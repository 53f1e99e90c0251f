"""The relay over real sockets: to an upstream that is watched, alone and through a sandbox."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import unprivileged
from sandbox_lab import Lab, Ran
from wfhub_agent_runner import relay
from wfhub_agent_runner.agents.table import ENTRIES
from wfhub_agent_runner.relay import GatewayRelay
from wfhub_agent_runner.sandbox.port import GATEWAY_URL, Exited
from wfhub_agent_runner.steering import Inbox
from wfhub_common.model_paths import HAND_IN_HEADER

CHAT = "/v1/chat/completions"


@dataclass
class Upstream:
    """A gateway that does as told: a handler gets the raw head and body, and the writer."""

    url: str = ""
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


Handler = Callable[[Upstream, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Upstream]:
    upstream = Upstream()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            upstream.heads.append(head)
            upstream.bodies.append(await _body(head, reader))
            upstream.asked.set()
            answering = asyncio.create_task(handler(upstream, writer))
            leaving = asyncio.create_task(reader.read(1))
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            answering.cancel()
            if leaving.done():
                upstream.gone.set()
            leaving.cancel()
        except (OSError, asyncio.IncompleteReadError):
            upstream.gone.set()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield upstream


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    lowered = head.lower()
    if b"content-length:" in lowered:
        length = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
        return await reader.readexactly(length)
    body = b""
    if b"transfer-encoding: chunked" in lowered:
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    return body


async def says_ok(_: Upstream, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nx-model: m\r\ncontent-length: 2\r\n\r\nok")
    await writer.drain()


@asynccontextmanager
async def agent(
    folder: Path, upstream_url: str
) -> AsyncIterator[tuple[httpx.AsyncClient, GatewayRelay]]:
    async with GatewayRelay(
        socket_path=folder / "g.sock", gateway_url=upstream_url, token="wat_real"
    ) as served:
        transport = httpx.AsyncHTTPTransport(uds=str(folder / "g.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://relay") as client:
            yield client, served


async def test_the_agents_credentials_are_replaced_by_the_attempts(tmp_path: Path) -> None:
    async with serving(says_ok) as upstream, agent(tmp_path, upstream.url) as (client, served):
        answer = await client.post(
            CHAT + "?key=stolen",
            content=b'{"a": 1}',
            headers={"Authorization": "Bearer dummy", "x-api-key": "dummy", "cookie": "c=1"},
        )
    assert (answer.status_code, answer.content, answer.headers["x-model"]) == (200, b"ok", "m")
    head = upstream.heads[0].decode()
    assert head.splitlines()[0] == f"POST {CHAT} HTTP/1.1"
    assert "Bearer wat_real" in head
    assert "dummy" not in head
    assert "cookie" not in head
    assert "stolen" not in head
    assert upstream.bodies == [b'{"a": 1}']
    assert (served.requests, served.answered, served.last_error) == (1, 1, "")


async def test_who_is_to_hand_in_is_answered_with_a_last_word_and_cannot_ask_for_one(
    tmp_path: Path,
) -> None:
    inbox = Inbox()
    socket_path = tmp_path / "g.sock"
    async with (
        serving(says_ok) as upstream,
        GatewayRelay(
            socket_path=socket_path, gateway_url=upstream.url, token="wat_real", inbox=inbox
        ),
        inbox.open(ENTRIES["codex"], asyncio.Event()),
        httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket_path)), base_url="http://relay"
        ) as client,
    ):
        own = {HAND_IN_HEADER: '{"tool": "mine"}'}
        await client.post(CHAT, content=b"{}", headers=own)
        inbox.take("", hand_in=True)
        await client.post(CHAT, content=b"{}", headers=own)
        await client.get("/v1/models")
    before, after, models = (head.decode().lower() for head in upstream.heads)
    assert HAND_IN_HEADER not in before
    assert f'{HAND_IN_HEADER}: {{"tool": "", "arguments": {{}}}}' in after
    assert HAND_IN_HEADER not in models


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/completions", 404),
        ("GET", "/", 404),
        ("GET", "/v1/models/../admin", 404),
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
    ],
)
async def test_nothing_but_the_listed_routes_is_passed(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with serving(says_ok) as upstream, agent(tmp_path, upstream.url) as (client, served):
        answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert upstream.heads == []
    assert served.statuses == {status: 1}


async def test_a_response_streams_chunk_by_chunk_and_byte_for_byte(tmp_path: Path) -> None:
    async def two_steps(upstream: Upstream, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"content-encoding: x-own\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"8\r\ndata: 1\n\r\n")
        await writer.drain()
        await upstream.go_on.wait()
        writer.write(b"8\r\ndata: \xff\n\r\n0\r\n\r\n")
        await writer.drain()

    async with (
        serving(two_steps) as upstream,
        agent(tmp_path, upstream.url) as (client, _),
        client.stream("POST", CHAT, content=b"{}") as answer,
    ):
        chunks = answer.aiter_raw()
        first = await asyncio.wait_for(anext(chunks), 5)  # before the upstream goes on
        upstream.go_on.set()
        rest = b"".join([chunk async for chunk in chunks])
        assert answer.headers["content-encoding"] == "x-own"
    assert (first, rest) == (b"data: 1\n", b"data: \xff\n")


async def hangs(upstream: Upstream, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
    await writer.drain()
    await upstream.go_on.wait()


async def never_answers(upstream: Upstream, _: asyncio.StreamWriter) -> None:
    await upstream.go_on.wait()


@pytest.mark.parametrize("handler", [hangs, never_answers])
async def test_a_client_that_leaves_cancels_the_upstream(tmp_path: Path, handler: Handler) -> None:
    async with serving(handler) as upstream, agent(tmp_path, upstream.url):
        _, writer = await asyncio.open_unix_connection(tmp_path / "g.sock")
        writer.write(
            b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
        )
        await asyncio.wait_for(upstream.asked.wait(), 5)
        writer.close()
        await asyncio.wait_for(upstream.gone.wait(), 5)


async def test_closing_the_relay_cuts_open_streams(tmp_path: Path) -> None:
    async with serving(hangs) as upstream:
        served = GatewayRelay(socket_path=tmp_path / "g.sock", gateway_url=upstream.url, token="t")
        async with served:
            transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "g.sock"))
            client = httpx.AsyncClient(transport=transport, base_url="http://relay")
            request = client.build_request("POST", CHAT, content=b"{}")
            answer = await client.send(request, stream=True)
            chunks = answer.aiter_raw()
            assert await anext(chunks) == b"x"
        await asyncio.wait_for(upstream.gone.wait(), 5)
        with pytest.raises(httpx.HTTPError):
            await asyncio.wait_for(anext(chunks), 5)
        await client.aclose()
    assert not (tmp_path / "g.sock").exists()


async def test_an_upstream_that_breaks_off_is_seen_as_an_incomplete_body(tmp_path: Path) -> None:
    async def breaks(_: Upstream, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await writer.drain()

    async with serving(breaks) as upstream, agent(tmp_path, upstream.url) as (client, served):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(CHAT, content=b"{}")
    assert "early" in served.last_error


async def test_a_gateway_that_is_down_is_answered_as_502(tmp_path: Path) -> None:
    async with agent(tmp_path, "http://127.0.0.1:9") as (client, served):
        answer = await client.post(CHAT, content=b"{}")
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "gateway-unreachable"
    assert (served.answered, served.statuses) == (0, {502: 1})


async def test_an_error_of_the_gateway_passes_and_is_remembered(tmp_path: Path) -> None:
    async def refuses(_: Upstream, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 7\r\n\r\nbad key")
        await writer.drain()

    async with serving(refuses) as upstream, agent(tmp_path, upstream.url) as (client, served):
        answer = await client.post(CHAT, content=b"{}")
    assert (answer.status_code, answer.content) == (401, b"bad key")
    assert served.last_error == "401: bad key"


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr(relay, "BODY_BYTES_MAX", 1000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    async with serving(says_ok) as upstream, agent(tmp_path, upstream.url) as (client, served):
        answer = await client.post(CHAT, content=pieces() if chunked else b"x" * 2000)
    assert answer.status_code == 413
    assert served.answered == 0


async def test_a_socket_path_may_be_longer_than_an_address(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    async with GatewayRelay(socket_path=folder / "g.sock", gateway_url="http://x", token="t"):
        assert (folder / "g.sock").is_socket()


AGENT = """
import json, sys, urllib.request
request = urllib.request.Request(sys.argv[1] + "/v1/chat/completions", b'{"stream": true}' * 5000)
with urllib.request.urlopen(request) as answer:
    first = answer.read(2)
    print(first.decode(), flush=True)
    print(len(answer.read()), flush=True)
"""


def test_an_agent_in_a_sandbox_streams_through_the_relay(tmp_path: Path) -> None:
    async def streams(upstream: Upstream, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
        await writer.drain()
        await upstream.go_on.wait()
        for _ in range(40):
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def work() -> tuple[Ran, bytes, bytes, int]:
        lab = Lab(tmp_path)
        async with serving(streams) as upstream:
            served = GatewayRelay(
                socket_path=tmp_path / "g.sock", gateway_url=upstream.url, token="wat_1"
            )
            async with served:
                first = asyncio.Event()
                run = asyncio.create_task(
                    lab.run(
                        *(*lab.sandbox.interpreter, "-c", AGENT, GATEWAY_URL),
                        gateway_socket=served.socket_path,
                        started=first,
                    )
                )
                await asyncio.wait_for(first.wait(), 20)
                upstream.go_on.set()
                ran = await run
            return ran, upstream.heads[0], upstream.bodies[0], served.answered

    ran, head, body, answered = unprivileged.run(tmp_path, work)
    assert (ran.outcome, ran.output) == (Exited(0), f"hi\n{40 * 65536}\n")
    assert b"Bearer wat_1" in head
    assert body == b'{"stream": true}' * 5000
    assert answered == 1


def test_the_token_is_nowhere_in_the_sandbox(tmp_path: Path) -> None:
    async def work() -> str:
        lab = Lab(tmp_path)
        served = GatewayRelay(
            socket_path=tmp_path / "g.sock", gateway_url="http://127.0.0.1:9", token="wat_canary"
        )
        script = "env; cat /proc/*/environ /proc/*/cmdline /run/wfhub/*; ls -lR /run /home"
        async with served:
            return (await lab.shell(script, gateway_socket=served.socket_path)).output

    output = unprivileged.run(tmp_path, work)
    assert "gateway.sock" in output
    assert "wat_canary" not in output


@pytest.mark.hostile(19)
def test_an_agent_reaches_its_own_socket_and_no_other_attempts(
    tmp_path: Path, backend: str
) -> None:
    own = "/run/sockets/gateway.sock" if backend == "kubernetes" else "/run/gateway.sock"
    code = """
import os, socket, sys
for path in sys.argv[1:]:
    try:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(b"GET /v1/models HTTP/1.1\\r\\nhost: x\\r\\n"
            b"authorization: Bearer wat_theirs\\r\\nconnection: close\\r\\n\\r\\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        print("answered" if b"200" in answer else "refused", os.path.basename(path))
    except OSError as e:
        print("no way", os.path.basename(path), type(e).__name__)
"""

    async def work() -> tuple[str, str, list[bytes]]:
        lab = Lab(tmp_path)
        async with serving(says_ok) as upstream:
            sockets = {name: tmp_path / f"{name}.sock" for name in ("mine", "theirs")}
            relays = [
                GatewayRelay(socket_path=path, gateway_url=upstream.url, token=f"wat_{name}")
                for name, path in sockets.items()
            ]
            async with relays[0], relays[1]:
                control = await asyncio.to_thread(lab.outside, code, sockets["theirs"])
                asked = len(upstream.heads)
                tries = (own, sockets["theirs"], sockets["mine"])
                roots = (f"/proc/{os.getppid()}/root{tries[1]}", f"/proc/1/root{tries[1]}")
                abstract = (f"/run/../..{tries[1]}", "/run/theirs.sock")
                ran = await lab.inside(
                    code, *tries, *roots, *abstract, gateway_socket=sockets["mine"]
                )
            return control, ran.output, upstream.heads[asked:]

    control, output, heads = unprivileged.run(tmp_path, work)
    assert control == "answered theirs.sock\n"
    first, *others = output.splitlines()
    assert first == "answered gateway.sock"
    assert len(others) == 6
    assert all(line.startswith("no way") for line in others)
    assert len(heads) == 1
    assert b"wat_mine" in heads[0]
    assert b"wat_theirs" not in heads[0]


def test_many_connections_at_once_all_get_an_answer(tmp_path: Path) -> None:
    code = """
import sys, threading, urllib.request
def ask():
    for _ in range(10):
        with urllib.request.urlopen(sys.argv[1] + "/v1/models") as answer:
            assert answer.read() == b"ok"
threads = [threading.Thread(target=ask) for _ in range(10)]
[t.start() for t in threads]; [t.join() for t in threads]
print("done")
"""

    async def work() -> tuple[str, str]:
        lab = Lab(tmp_path)
        async with serving(says_ok) as upstream:
            served = GatewayRelay(
                socket_path=tmp_path / "g.sock", gateway_url=upstream.url, token="t"
            )
            async with served:
                ran = await lab.run(
                    *(*lab.sandbox.interpreter, "-c", code, GATEWAY_URL),
                    gateway_socket=served.socket_path,
                )
            return ran.output, json.dumps(served.statuses)

    assert unprivileged.run(tmp_path, work) == ("done\n", '{"200": 100}')
