"""The egress proxy over real sockets: from inside a sandbox, and asked directly."""

import asyncio
import json
import shlex
import shutil
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import egress_lab
import pytest
import unprivileged
from egress_lab import BIG_BYTES, NAME, Site, asked, names, proxy, site
from sandbox_lab import Lab, Ran
from wfhub_agent_runner.egress import EgressLimits, EgressProxy
from wfhub_agent_runner.relay import GatewayRelay
from wfhub_agent_runner.sandbox.port import Exited, LimitExceeded
from wfhub_common.egress import Endpoint

FETCH = """
import ssl, sys, urllib.request
for url in sys.argv[2:]:
    context = ssl.create_default_context(cadata=sys.argv[1] or None)
    try:
        with urllib.request.urlopen(url, context=context, timeout=20) as answer:
            print(answer.status, answer.read().decode())
    except OSError as e:
        print("no", getattr(e, "code", ""), getattr(e, "reason", e))
"""
ECHO = """
import http.client, socket, sys
connection = http.client.HTTPConnection("127.0.0.1", 8091, timeout=20)
connection.set_tunnel(sys.argv[1], int(sys.argv[2]))
connection.connect()
connection.sock.sendall(b"ping" * 100_000)
connection.sock.shutdown(socket.SHUT_WR)
got = b""
while chunk := connection.sock.recv(65536):
    got += chunk
print(got == b"ping" * 100_000)
"""


STILL_S_MAX = 1.0  # a lease is renewed every 10 s


@dataclass
class Watch:
    """The longest that the event loop, which is the runner's, computed without a pause: its own
    CPU time, as a machine that does something else meanwhile says nothing about the runner."""

    slowest_s: float = 0.0

    async def keep(self) -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0.005)
            self.slowest_s = max(self.slowest_s, time.thread_time() - began)


@asynccontextmanager
async def loop_watched() -> AsyncIterator[Watch]:
    watch = Watch()
    task = asyncio.create_task(watch.keep())
    try:
        yield watch
    finally:
        task.cancel()


def lines_of(through: EgressProxy) -> list[dict[str, object]]:
    return [json.loads(line) for line in through.log.path.read_text().splitlines()]


def test_an_allowed_host_is_reached_from_inside_by_ordinary_programs(tmp_path: Path) -> None:
    async def work() -> tuple[list[Ran], list[dict[str, object]], list[bytes], str]:
        lab = Lab(tmp_path)
        async with site(tls_in=tmp_path) as safe, site() as plain, site("echo") as echo:
            entries = [(NAME, each.port) for each in (safe, plain, echo)]
            urls = (f"https://{NAME}:{safe.port}/a?b=c", f"http://{NAME}:{plain.port}/path-canary")
            async with proxy(tmp_path, *entries) as through:
                given = {
                    "egress_socket": through.socket_path,
                    "files": {"/tmp/ca.pem": safe.ca},
                }
                ran = [
                    await lab.inside(FETCH, safe.ca.decode(), *urls, **given),
                    await lab.inside(ECHO, NAME, echo.port, **given),
                ]
                curl = "curl -sS --cacert /tmp/ca.pem"
                script = f"{curl} {urls[0]}; {curl} {urls[1]}"
                script = f"command -v curl >/dev/null || {{ echo none; exit; }}; {script}"
                ran.append(await lab.shell(script, **given))
            return ran, lines_of(through), plain.heads, lab.sandbox.describe()["backend"]

    ran, log, heads, backend_name = unprivileged.run(tmp_path, work)
    assert [each.outcome for each in ran] == [Exited(0)] * len(ran)
    assert ran[0].output == "200 hello\n200 hello\n"
    assert ran[1].output == "True\n"
    # bwrap has the host's /usr: what is there must be used. An image may lack it, and says so.
    here = backend_name == "bwrap" and shutil.which("curl", path="/usr/bin")
    assert ran[2].output in ({"hellohello"} if here else {"hellohello", "none\n"})
    *decisions, sums = log
    assert {line["decision"] for line in decisions} == {"allowed"}
    assert {line["reason"] for line in decisions} == {"complete"}
    assert {line["address"] for line in decisions} == {"127.0.0.1"}
    assert sums["connections_allowed"] == len(decisions)
    echoed = decisions[2]
    assert echoed["sent_bytes"] == echoed["received_bytes"] == 400_000
    assert heads[0].startswith(b"GET /path-canary HTTP/1.1\r\n")
    assert "path-canary" not in json.dumps(log)


TRICKLE = """
import os, socket, sys, time
host, port = os.environ["http_proxy"].removeprefix("http://").split(":")
c = socket.create_connection((host, int(port)))
c.sendall(f"CONNECT {sys.argv[1]}:{sys.argv[2]} HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n".encode())
c.recv(4096)
for _ in range(int(sys.argv[3])):
    c.sendall(b"x")
    c.recv(1)
    time.sleep(0.3)
time.sleep(float(sys.argv[4]))
"""


def test_what_passes_is_a_sign_of_life_and_an_open_connection_is_none(
    tmp_path: Path, backend: str
) -> None:
    # A pod's first word takes longer: its sidecar, its runner's poll, a share of a processor.
    idle_s, times = (6.0, 25) if backend == "kubernetes" else (1.5, 10)

    async def work() -> tuple[Ran, Ran]:
        lab = Lab(tmp_path)
        async with site("echo") as echo, proxy(tmp_path, (NAME, echo.port)) as through:

            def trickle(count: int, then_s: float) -> Awaitable[Ran]:
                return lab.inside(
                    *(TRICKLE, NAME, echo.port, count, then_s),
                    egress_socket=through.socket_path,
                    idle_s=idle_s,
                    signs=through.active_at,
                )

            return await trickle(times, 0), await trickle(1, 30)

    busy, silent = unprivileged.run(tmp_path, work)
    assert busy.outcome == Exited(0), busy
    assert busy.result.duration_ms > 2500
    assert silent.outcome == LimitExceeded("idle", int(idle_s))


@pytest.mark.hostile(7)
def test_from_inside_nothing_else_is_reached(tmp_path: Path) -> None:
    table = {
        NAME: ["127.0.0.1"],
        "rebound.test": ["127.0.0.1"],  # allowed, but not named as private
        "half.test": ["192.0.2.1", "127.0.0.1"],
        "metadata.test": ["169.254.169.254"],  # allowed and named, and still not
        "mapped.test": ["::ffff:169.254.169.254"],
    }
    private = (NAME, "metadata.test", "mapped.test", "169.254.169.254")

    async def work() -> tuple[str, list[dict[str, object]], Site, Site]:
        lab = Lab(tmp_path)
        async with site() as wanted, site() as other:
            port = wanted.port
            entries = [(name, port) for name in table] + [("169.254.169.254", 80)]
            hosts = [
                *(f"{NAME}:{other.port}", f"other.test:{port}", f"127.0.0.1.:{port}"),
                *(f"127.1:{port}", f"0x7f000001:{port}", f"[::1]:{port}", f"127.0.0.2:{port}"),
                *(f"rebound.test:{port}", f"half.test:{port}", f"metadata.test:{port}"),
                *(f"mapped.test:{port}", "169.254.169.254:80"),
            ]
            urls = [f"{scheme}://{host}/x" for host in hosts for scheme in ("http", "https")]
            resolve = names(table | {"169.254.169.254": ["169.254.169.254"]})
            async with proxy(tmp_path, *entries, private=private, resolve=resolve) as through:
                ran = await lab.inside(
                    FETCH,
                    "",
                    *urls,
                    f"http://{NAME}:{port}/",  # the control
                    egress_socket=through.socket_path,
                )
            wanted.arrived = other.arrived = None  # type: ignore[assignment]  # to be pickled
            return ran.output, lines_of(through), wanted, other

    output, log, wanted, other = unprivileged.run(tmp_path, work)
    *refused, control = output.splitlines()
    assert control == "200 hello"
    assert len(refused) == 24
    assert all(line.startswith("no") for line in refused), output
    assert (wanted.connections, other.connections) == (1, 0)
    reasons = {str(line["target"]): line["reason"] for line in log[:-1]}
    assert reasons[f"rebound.test:{wanted.port}"] == "forbidden-address"
    assert reasons[f"half.test:{wanted.port}"] == "forbidden-address"
    assert reasons[f"metadata.test:{wanted.port}"] == "forbidden-address"
    assert reasons[f"mapped.test:{wanted.port}"] == "forbidden-address"
    assert reasons["169.254.169.254:80"] == "forbidden-address"
    assert reasons[f"other.test:{wanted.port}"] == "not-allowed"
    assert reasons[f"127.0.0.2:{wanted.port}"] == "not-allowed"


def test_without_the_setting_there_is_no_proxy(tmp_path: Path, backend: str) -> None:
    connect = 'import socket; print(socket.socket().connect_ex(("127.0.0.1", 8091)))'

    async def work() -> str:
        lab = Lab(tmp_path)
        python = shlex.join(lab.sandbox.interpreter)
        script = f"env | grep -i _proxy; ls /run; exec 2>&1; {python} -c '{connect}'"
        relay = GatewayRelay(
            socket_path=tmp_path / "g.sock", gateway_url="http://127.0.0.1:9", token="t"
        )
        async with relay:
            return (await lab.shell(script, gateway_socket=relay.socket_path)).output

    found = unprivileged.run(tmp_path, work).splitlines()
    if backend == "kubernetes":  # the rest of the folder is the image's
        assert {"sockets", "wfhub"} <= {*found}
        assert not [name for name in found if "egress" in name]
    else:
        assert found[:-1] == ["gateway.sock", "wfhub"]
    assert found[-1] == "111"


def test_the_gateway_is_not_asked_through_the_proxy(tmp_path: Path) -> None:
    async def work() -> tuple[str, int, list[dict[str, object]]]:
        lab = Lab(tmp_path)
        async with site() as upstream, proxy(tmp_path) as through:
            relay = GatewayRelay(
                socket_path=tmp_path / "g.sock",
                gateway_url=f"http://127.0.0.1:{upstream.port}",
                token="t",
            )
            async with relay:
                ran = await lab.inside(
                    FETCH,
                    *("", "http://127.0.0.1:8090/v1/models", f"http://{NAME}/"),
                    gateway_socket=relay.socket_path,
                    egress_socket=through.socket_path,
                )
        return ran.output, relay.answered, lines_of(through)

    output, answered, log = unprivileged.run(tmp_path, work)
    assert output.splitlines()[0] == "200 hello"
    assert output.splitlines()[1].startswith("no 403")
    assert answered == 1
    assert log[-1]["connections_refused"] == 1


async def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to(
    tmp_path: Path,
) -> None:
    answers = ["127.0.0.1", "169.254.169.254", "127.0.0.1"]

    async def changes(target: Endpoint) -> list[str]:
        return [answers.pop(0)]

    async with site() as web:
        request = b"GET http://%s:%d/ HTTP/1.1\r\nhost: x\r\n\r\n" % (NAME.encode(), web.port)
        async with proxy(tmp_path, (NAME, web.port), resolve=changes) as through:
            said = [await asked(through, request) for _ in range(3)]
    assert [each.split()[1] for each in said] == [b"200", b"403", b"200"]
    assert web.connections == 2
    assert not answers


async def test_a_name_that_is_not_allowed_is_not_looked_up(tmp_path: Path) -> None:
    async def never(target: Endpoint) -> list[str]:
        raise AssertionError(target)

    async with proxy(tmp_path, (NAME, 443), resolve=never) as through:
        said = await asked(through, b"CONNECT secret-words.example:443 HTTP/1.1\r\nhost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 403 ")
    assert b"secret-words.example:443 is not among" in said


@pytest.mark.hostile(7)
@pytest.mark.parametrize(
    "request_line",
    [
        b"GET / HTTP/1.1",
        b"GET https://%(site)s/ HTTP/1.1",
        b"GET ftp://%(site)s/ HTTP/1.1",
        b"GET http://user:password@%(site)s/ HTTP/1.1",
        b"GET http:///x HTTP/1.1",
        b"CONNECT %(site)s/x HTTP/1.1",
        b"CONNECT registry.test HTTP/1.1",
        b"CONNECT http://%(site)s HTTP/1.1",
        b"CONNECT *:443 HTTP/1.1",
        b"CONNECT %(site)s HTTP/1.1\r\ncontent-length: 4",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET http://%(site)s/\x00 HTTP/1.1",
    ],
)
async def test_what_is_no_request_to_a_proxy_is_a_400(tmp_path: Path, request_line: bytes) -> None:
    async with site() as web, proxy(tmp_path, (NAME, web.port)) as through:
        line = request_line.replace(b"%(site)s", f"{NAME}:{web.port}".encode())
        said = await asked(through, line + b"\r\nhost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 400 "), said
    assert web.connections == 0
    assert lines_of(through)[0]["reason"] == "malformed"
    assert "password" not in through.log.path.read_text()


@pytest.mark.hostile(7)
async def test_only_the_request_that_was_checked_is_sent_and_its_host_is_ours(
    tmp_path: Path,
) -> None:
    async with site() as web, proxy(tmp_path, (NAME, web.port)) as through:
        at = f"{NAME}:{web.port}".encode()
        said = await asked(
            through,
            b"GET http://%s HTTP/1.1\r\nhost: inner.test\r\nproxy-authorization: Basic eA==\r\n"
            b"connection: x-hop, keep-alive\r\nx-hop: 1\r\nupgrade: h2c\r\nx-end: 1\r\n\r\n"
            b"GET http://inner.test/second HTTP/1.1\r\nhost: inner.test\r\n\r\n" % at,
        )
    assert said.count(b"HTTP/1.1 200") == 1
    assert web.connections == 1
    assert web.heads == [
        b"GET / HTTP/1.1\r\nhost: %s\r\nx-end: 1\r\nconnection: close\r\n\r\n" % at
    ]


async def test_bodies_pass_in_both_framings_and_head_has_none(tmp_path: Path) -> None:
    async with site() as web, proxy(tmp_path, (NAME, web.port)) as through:
        at = f"http://{NAME}:{web.port}/up".encode()
        sized = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nabcde" % at
        chunked = (
            b"POST %s HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n"
            b"\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n" % at
        )
        head = b"HEAD %s HTTP/1.1\r\nhost: x\r\n\r\n" % at
        said = [await asked(through, request) for request in (sized, chunked, head)]
    assert [each.split()[1] for each in said] == [b"200"] * 3
    assert web.bodies == [b"abcde", b"abcde", b""]
    assert said[0].endswith(b"hello")
    assert said[2].endswith(b"\r\n\r\n")
    assert b"content-length: 1\r\n" not in web.heads[1].lower()


async def test_a_header_over_its_limit_is_a_431_and_a_slow_one_a_408(tmp_path: Path) -> None:
    for few, header, status, reason in (
        (EgressLimits(header_bytes_max=8192), b"x: " + b"y" * 100_000, 431, "header-too-large"),
        (EgressLimits(header_s_max=0.3), b"", 408, "no-request"),
    ):
        (tmp_path / reason).mkdir()
        async with proxy(tmp_path / reason, (NAME, 1), limits=few) as through:
            said = await asked(through, b"GET http://x/ HTTP/1.1\r\n" + header)
        assert said.startswith(b"HTTP/1.1 %d " % status)
        assert [line["reason"] for line in lines_of(through)[:-1]] == [reason]


async def test_what_is_silent_is_cut(tmp_path: Path) -> None:
    few = EgressLimits(idle_s_max=2.0)  # an echo takes less
    async with site() as web, site("echo") as echo:
        entries = [(NAME, web.port), (NAME, echo.port)]
        async with proxy(tmp_path, *entries, limits=few) as through:
            at = f"{NAME}:{web.port}".encode()
            plain = await asked(through, b"GET http://%s/silent HTTP/1.1\r\nhost: x\r\n\r\n" % at)
            tunnel = await asked(
                through, f"CONNECT {NAME}:{echo.port} HTTP/1.1\r\nhost: x\r\n\r\nhi".encode()
            )
            await web.until_open(0)
            await echo.until_open(0)
    assert plain.startswith(b"HTTP/1.1 504 ")
    assert tunnel == b"HTTP/1.1 200 Connection established\r\n\r\nhi"
    assert [line["reason"] for line in lines_of(through)[:-1]] == ["idle", "idle"]


async def test_an_attempt_has_so_many_bytes_and_no_more(tmp_path: Path) -> None:
    few = EgressLimits(bytes_max=1024 * 1024)
    async with site() as web, proxy(tmp_path, (NAME, web.port), limits=few) as through:
        big = b"GET http://%s:%d/big HTTP/1.1\r\nhost: x\r\n\r\n" % (NAME.encode(), web.port)
        first, second = await asked(through, big), await asked(through, big)
    assert first.startswith(b"HTTP/1.1 200 ")
    assert 512 * 1024 < len(first) <= 1024 * 1024 + 1024 < BIG_BYTES
    assert second.startswith(b"HTTP/1.1 403 ")
    assert [line["reason"] for line in lines_of(through)[:-1]] == ["bytes-limit", "bytes-limit"]
    assert through.bytes_used < 1024 * 1024 + 2 * 65536


@pytest.mark.hostile(7)
async def test_a_flood_is_bounded_and_leaves_the_runner_time(tmp_path: Path) -> None:
    """800 connections at once, of which 16 are held, then the proxy works as before."""
    few = EgressLimits(connections_max=16)
    async with site("echo") as echo, proxy(tmp_path, (NAME, echo.port), limits=few) as through:
        connect = f"CONNECT {NAME}:{echo.port} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
        held, turned_away = [], 0
        async with loop_watched() as watch:
            for _ in range(8):
                ends = await asyncio.gather(
                    *(asyncio.open_unix_connection(str(through.socket_path)) for _ in range(100))
                )
                for _, writer in ends:
                    writer.write(connect)
                for reader, writer in ends:
                    async with asyncio.timeout(egress_lab.WAIT_S):
                        try:
                            line = await reader.readline()
                        except ConnectionResetError:  # asyncio forgets what came before it
                            line = b"HTTP/1.1 503 "
                    if b" 200 " in line:
                        held.append(writer)
                    else:
                        assert b" 503 " in line
                        turned_away += 1
                        writer.close()
        assert (len(held), turned_away) == (16, 784)
        assert echo.open_most == through.connections_most == 16
        for writer in held:
            writer.close()
        async with asyncio.timeout(egress_lab.WAIT_S):
            while through.connections_open:  # noqa: ASYNC110 - not told from outside
                await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_unix_connection(str(through.socket_path))
        writer.write(connect)
        assert b" 200 " in await reader.readline()
        writer.close()
    assert watch.slowest_s < STILL_S_MAX
    assert lines_of(through)[-1]["connections_refused"] == 784


@pytest.mark.hostile(7)
async def test_a_body_of_tiny_chunks_leaves_the_runner_time(tmp_path: Path) -> None:
    chunks = 100_000
    async with site() as web, proxy(tmp_path, (NAME, web.port)) as through:
        head = b"POST http://%s:%d/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        async with loop_watched() as watch:
            said = await asked(
                through,
                head % (NAME.encode(), web.port) + b"1\r\na\r\n" * chunks + b"0\r\n\r\n",
            )
    assert said.endswith(b"hello")
    assert web.bodies == [b"a" * chunks]
    assert watch.slowest_s < STILL_S_MAX / 2


async def test_leaving_cuts_what_is_open_and_says_so(tmp_path: Path) -> None:
    async with site("echo") as echo:
        async with proxy(tmp_path, (NAME, echo.port)) as through:
            reader, writer = await asyncio.open_unix_connection(str(through.socket_path))
            writer.write(f"CONNECT {NAME}:{echo.port} HTTP/1.1\r\nhost: x\r\n\r\nhi".encode())
            await reader.readuntil(b"hi")
            await asyncio.open_unix_connection(str(through.socket_path))  # which asks for nothing
        async with asyncio.timeout(egress_lab.WAIT_S):
            assert await reader.read() == b""
        await echo.until_open(0)
        writer.close()
    assert not through.socket_path.exists()
    (line, _) = lines_of(through)
    assert (line["decision"], line["reason"], line["sent_bytes"]) == ("allowed", "attempt-ended", 2)
