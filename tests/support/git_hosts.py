"""Git hosts on loopback, with C git behind them: https (http-backend) and ssh (paramiko's server).

Both serve the bare repositories of one folder, know one credential, and can be told to misbehave:
`cut_after` drops the reply of a request that was carried out, `at_request` is called with each.
"""

import http.server
import io
import os
import secrets
import shlex
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gitrepos
import paramiko
from certificates import certificate_for

CHUNK_BYTES = 64 * 1024


@dataclass
class Host:
    root: Path
    port: int = 0
    cut_after: str = ""  # "receive-pack": carried out, and the connection cut without a word
    at_request: Callable[[str], None] = lambda _: None
    requests: list[str] = field(default_factory=list)
    sent_bytes: int = 0  # by us, in answers
    address: str = "127.0.0.1"

    @property
    def name(self) -> str:
        return f"{self.address}:{self.port}"


def _environment(host: Host, protocol: str) -> dict[str, str]:
    return {**gitrepos.ENVIRONMENT, **({"GIT_PROTOCOL": protocol} if protocol else {})}


# --- https


@dataclass
class HttpsHost(Host):
    user: str = "bot"
    # Of this run alone: others on this machine are searched for it too.
    password: str = field(default_factory=lambda: f"open-{secrets.token_hex(8)}")
    ca: str = ""  # PEM
    answer: tuple[int, dict[str, str]] | None = None  # instead of git's

    def url(self, name: str) -> str:
        return f"https://{self.name}/{name}"


@contextmanager
def https(root: Path, address: str = "127.0.0.1") -> Iterator[HttpsHost]:
    host = HttpsHost(root, address=address)
    certificate, key = certificate_for(address, root)
    host.ca = certificate.read_text()
    handler = type("Handler", (_Handler,), {"host": host})
    server = http.server.ThreadingHTTPServer((address, 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    host.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    host: HttpsHost
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = io.BytesIO()
        while size := int(self.rfile.readline().strip(), 16):
            body.write(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return body.getvalue()

    def _serve(self, body: bytes) -> None:
        host = self.host
        host.requests.append(f"{self.command} {self.path}")
        host.at_request(self.path)
        if host.answer is not None:
            return self._reply(*host.answer, b"")
        credential = f"{host.user}:{host.password}".encode()
        import base64

        if self.headers.get("Authorization") != "Basic " + base64.b64encode(credential).decode():
            return self._reply(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
        path, _, query = self.path.partition("?")
        done = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            check=False,
            env={
                **_environment(host, self.headers.get("Git-Protocol", "")),
                "GIT_PROJECT_ROOT": str(host.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "REMOTE_USER": host.user,
                "REMOTE_ADDR": "127.0.0.1",
            },
        )
        if host.cut_after and path.endswith(host.cut_after) and self.command == "POST":
            host.cut_after = ""
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return None
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        lines = [line.partition(":") for line in head.decode().split("\r\n")]
        fields = {name: value.strip() for name, _, value in lines}
        self._reply(int(fields.pop("Status", "200").split()[0]), fields, answer)
        return None

    def _reply(self, status: int, fields: dict[str, str], body: bytes) -> None:
        self.host.sent_bytes += len(body)
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


# --- ssh


@dataclass
class SshHost(Host):
    host_key: paramiko.PKey = field(default_factory=lambda: paramiko.RSAKey.generate(2048))
    deploy_key: paramiko.PKey = field(default_factory=lambda: paramiko.ECDSAKey.generate())

    def url(self, name: str) -> str:
        return f"ssh://git@{self.name}{self.root}/{name}"

    @property
    def known_hosts(self) -> str:
        return f"[127.0.0.1]:{self.port} {self.host_key.get_name()} {self.host_key.get_base64()}\n"

    @property
    def private_key(self) -> str:
        text = io.StringIO()
        self.deploy_key.write_private_key(text)
        return text.getvalue()


@contextmanager
def ssh(root: Path) -> Iterator[SshHost]:
    host = SshHost(root)
    listener = socket.create_server(("127.0.0.1", 0))
    host.port = listener.getsockname()[1]
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=_ssh_session, args=(host, connection), daemon=True)
            thread.start()
            threads.append(thread)

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield host
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in threads:
            thread.join(10)


class _Server(paramiko.ServerInterface):
    def __init__(self, host: SshHost) -> None:
        self.host = host
        self.asked = threading.Event()
        self.command = ""
        self.protocol = ""

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == "git" and key.asbytes() == self.host.deploy_key.asbytes()
        return int(paramiko.AUTH_SUCCESSFUL if known else paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_env_request(self, channel: Any, name: bytes, value: bytes) -> bool:
        if name == b"GIT_PROTOCOL":
            self.protocol = value.decode()
        return name == b"GIT_PROTOCOL"

    def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
        self.command = command.decode()
        self.asked.set()
        return True


def _ssh_session(host: SshHost, connection: socket.socket) -> None:
    transport = paramiko.Transport(connection)
    transport.add_server_key(host.host_key)
    server = _Server(host)
    try:
        transport.start_server(server=server)
        channel = transport.accept(10)
        if channel is None or not server.asked.wait(10):
            return
        _run(host, server, channel)
    except (paramiko.SSHException, EOFError, OSError):
        pass
    finally:
        transport.close()


def _run(host: SshHost, server: _Server, channel: paramiko.Channel) -> None:
    words = shlex.split(server.command)
    host.requests.append(server.command)
    host.at_request(server.command)
    assert words[0] in {"git-upload-pack", "git-receive-pack"}, words
    path = words[1] if words[1].startswith("/") else str(host.root / words[1])
    git = subprocess.Popen(
        ["git", words[0].removeprefix("git-"), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(host, server.protocol),
    )
    assert git.stdin is not None
    assert git.stdout is not None
    assert git.stderr is not None

    def feed() -> None:
        try:
            while chunk := channel.recv(CHUNK_BYTES):
                git.stdin.write(chunk)  # type: ignore[union-attr]
                git.stdin.flush()  # type: ignore[union-attr]
            git.stdin.close()  # type: ignore[union-attr]
        except OSError:
            pass

    threading.Thread(target=feed, daemon=True).start()
    while chunk := os.read(git.stdout.fileno(), CHUNK_BYTES):
        host.sent_bytes += len(chunk)
        channel.sendall(chunk)
    channel.sendall_stderr(git.stderr.read())
    channel.send_exit_status(git.wait())
    channel.close()
