"""Hostile action 7 again, where a task was allowed one way out: everything beside it stays shut.

The control outside shows that each target is there to be reached.
"""

import asyncio
from pathlib import Path

import unprivileged
from egress_lab import NAME, names, proxy, site
from sandbox_lab import Lab

TRY = """
import socket, sys
port, other, proxied = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "inside"
def say(name, connect, request):
    try:
        with connect() as connection:
            connection.settimeout(20)
            connection.sendall(request)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        print("GOT" if b"hello" in answer else "no", name, answer[:12], flush=True)
    except OSError as e:
        print("no", name, e, flush=True)
def direct(number):
    return lambda: socket.create_connection(("127.0.0.1", number), timeout=20)
head = b"\\r\\nhost: x\\r\\n\\r\\n"
plain = b"GET / HTTP/1.1" + head
say("direct", direct(port), plain)
say("direct-other", direct(other), plain)
if proxied:
    proxy = direct(8091)
    def socket_file():
        connection = socket.socket(socket.AF_UNIX)
        connection.connect("/run/egress.sock")
        return connection
    def through(name, host, number, way=proxy):
        at = f"{host}:{number}".encode()
        say(name + "-connect", way, b"CONNECT " + at + b" HTTP/1.1" + head + plain)
        say(name + "-get", way, b"GET http://" + at + b"/ HTTP/1.1" + head)
    through("other-port", "registry.test", other)
    through("other-port-of-the-file", "registry.test", other, socket_file)
    through("other-name", "elsewhere.test", port)
    through("subdomain", "a.registry.test", port)
    through("last-dot", "registry.test.", port)
    through("address", "127.0.0.1", port)
    through("short-address", "127.1", port)
    through("hex-address", "0x7f000001", port)
    through("decimal-address", "2130706433", port)
    through("v6-address", "[::ffff:127.0.0.1]", port)
    through("rebound", "rebound.test", port)
    through("metadata", "metadata.test", port)
    through("userinfo", "registry.test@127.0.0.1", other)
    through("no-host", "", port)
    at = f"registry.test:{port}".encode()
    second = f"GET http://127.0.0.1:{other}/ HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n".encode()
    say("smuggled", proxy, b"HEAD http://" + at + b"/ HTTP/1.1\\r\\nhost: y\\r\\n"
        b"content-length: 0\\r\\n\\r\\n" + second)
    through("allowed", "registry.test", port)
"""


def test_7_one_allowed_host_opens_nothing_beside_it(tmp_path: Path) -> None:
    async def work() -> tuple[str, str, list[int]]:
        made = Lab(tmp_path)
        async with site() as wanted, site() as other:
            ports = (wanted.port, other.port)
            resolve = names(
                {
                    NAME: ["127.0.0.1"],
                    "rebound.test": ["127.0.0.1"],
                    "metadata.test": ["169.254.169.254"],
                }
            )
            entries = [(name, wanted.port) for name in (NAME, "rebound.test", "metadata.test")]
            private = (NAME, "metadata.test")
            async with proxy(tmp_path, *entries, private=private, resolve=resolve) as through:
                inside = await made.inside(TRY, *ports, "inside", egress_socket=through.socket_path)
            reached = [wanted.connections, other.connections]
            outside = await asyncio.to_thread(made.outside, TRY, *ports, "outside")
            return outside, inside.output, reached

    outside, inside, reached = unprivileged.run(tmp_path, work)
    assert outside.count("GOT") == 2, outside
    lines = inside.splitlines()
    assert len(lines) == 2 + 2 * 14 + 1 + 2, inside
    got = [line.split()[1] for line in lines if line.startswith("GOT")]
    assert got == ["allowed-connect", "allowed-get"], inside
    # The two that were allowed, and the checked half of what tried to smuggle.
    assert reached == [3, 0]
