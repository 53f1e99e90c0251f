"""Real servers on loopback, names that lead where a test says, and a proxy between them.

`Site` counts what reached it and keeps the heads of its requests. `names` is a resolver.
"""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from wfhub_agent_runner.egress import EgressLimits, EgressProxy
from wfhub_agent_runner.egress_policy import EgressPolicy, Resolve
from wfhub_common.egress import Endpoint

NAME = "registry.test"  # which no name server knows
WAIT_S = 60.0  # for what a busy machine does late
BIG_BYTES = 3 * 1024 * 1024


@dataclass
class Site:
    port: int = 0
    ca: bytes = b""
    connections: int = 0
    open_now: int = 0
    open_most: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def _changed(self) -> None:
        async with self.arrived:
            self.arrived.notify_all()

    async def until_open(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S), self.arrived:
            await self.arrived.wait_for(lambda: self.open_now == count)

    async def web(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """`hello` to any path; /big sends BIG_BYTES, /silent nothing at all."""
        await self._counted(self._web(reader, writer), writer)

    async def echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._counted(self._echo(reader, writer), writer)

    async def _counted(self, work: object, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        await self._changed()
        try:
            await work  # type: ignore[misc]
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.open_now -= 1
            await self._changed()

    async def _web(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        body = b""
        if b"transfer-encoding: chunked" in head.lower():
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        elif b"content-length: " in head.lower():
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        self.bodies.append(body)
        path = head.split(b" ")[1]
        if path == b"/silent":
            await reader.read()
            return
        answer = b"x" * BIG_BYTES if path == b"/big" else b"hello"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer))
        writer.write(b"" if head.startswith(b"HEAD") else answer)
        await writer.drain()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


@asynccontextmanager
async def site(kind: str = "web", *, tls_in: Path | None = None) -> AsyncIterator[Site]:
    """`kind`: web | echo. With `tls_in`, a folder, it speaks TLS as NAME."""
    made = Site()
    context = None
    if tls_in is not None:
        context, made.ca = _tls(tls_in)
    server = await asyncio.start_server(getattr(made, kind), "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


def names(table: Mapping[str, Sequence[str]]) -> Resolve:
    async def resolve(target: Endpoint) -> Sequence[str]:
        try:
            return table[target.host]
        except KeyError:
            raise OSError("no such name") from None

    return resolve


def proxy(
    folder: Path,
    *allowed: tuple[str, int],
    private: Sequence[str] = (NAME,),
    resolve: Resolve | None = None,
    limits: EgressLimits | None = None,
) -> EgressProxy:
    return EgressProxy(
        socket_path=folder / "e.sock",
        log_path=folder / "egress.log",
        policy=EgressPolicy(
            allowed=frozenset(Endpoint(*entry) for entry in allowed),
            private_hosts=frozenset(private),
        ),
        resolve=resolve or names({NAME: ["127.0.0.1"]}),
        limits=limits,
    )


async def asked(through: EgressProxy, request: bytes) -> bytes:
    """The whole answer, to a client that sends this and then listens."""
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_unix_connection(str(through.socket_path))
        writer.write(request)
        try:
            return await reader.read()
        finally:
            writer.close()


def _tls(folder: Path) -> tuple[ssl.SSLContext, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "tls.pem").write_bytes(pem + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem")
    return context, pem
