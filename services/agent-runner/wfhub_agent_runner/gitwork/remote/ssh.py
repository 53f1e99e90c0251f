"""dulwich's ssh client over paramiko: a known host key, one deploy key, both in memory alone.

The host's key is compared before anything is said about us. No agent, no configuration file, no
password, no forwarding; the key is never on a disk or a command line.
Raises: Rejected (`host-key-unknown`, `host-key-changed`, `repo-unauthorized`, `git-credentials`),
RetryLater (`repo-unreachable`).
"""

import base64
import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import paramiko
from dulwich.client import SSHGitClient, SSHVendor
from dulwich.errors import HangupException
from wfhub_common.errors import Rejected, RetryLater

from wfhub_agent_runner.gitwork.remote import hosts
from wfhub_agent_runner.gitwork.remote.url import PORTS, Remote

HANDSHAKE_S_MAX = 20.0
_KEY_TYPES: tuple[type[paramiko.PKey], ...] = (
    paramiko.Ed25519Key,
    paramiko.ECDSAKey,
    paramiko.RSAKey,
)
# What paramiko raises when the other side is gone.
_GONE = (EOFError, OSError, paramiko.SSHException)
_RSA = "ssh-rsa"  # the name of the key; it signs with SHA-2


def client(
    remote: Remote, addresses: Sequence[tuple[str, int]], private_key: str, known_hosts: str
) -> SSHGitClient:
    vendor = _Vendor(remote, addresses, private_key, known_hosts)
    return SSHGitClient(remote.host, port=remote.port, username=remote.user, vendor=vendor)


class _Vendor(SSHVendor):
    def __init__(
        self,
        remote: Remote,
        addresses: Sequence[tuple[str, int]],
        private_key: str,
        known_hosts: str,
    ) -> None:
        self._remote, self._addresses = remote, addresses
        self._key = _private(private_key, remote)
        self._known = _known(known_hosts, _name(remote))

    def run_command(  # type: ignore[override]  # the rest of its arguments are known already
        self, host: str, command: bytes, *, protocol_version: int | None = None, **_: object
    ) -> "_Channel":
        transport = None
        try:
            transport = paramiko.Transport(hosts.connect(self._addresses))
            transport.banner_timeout = transport.auth_timeout = HANDSHAKE_S_MAX
            self._prefer_known_types(transport)
            transport.start_client(timeout=HANDSHAKE_S_MAX)
            self._check_host(transport.get_remote_server_key())
            transport.auth_publickey(self._remote.user, self._key)
            channel = transport.open_session(timeout=HANDSHAKE_S_MAX)
            channel.settimeout(hosts.SILENCE_S_MAX)
            if protocol_version is None or protocol_version > 0:
                channel.set_environment_variable("GIT_PROTOCOL", "version=2")
            channel.exec_command(command)
        except paramiko.AuthenticationException as e:
            raise Rejected(
                "repo-unauthorized",
                f"{self._remote.authority} does not know the runner's key; add its public half"
                " there as a deploy key that may push",
            ) from e
        except (paramiko.SSHException, OSError, EOFError) as e:
            raise RetryLater(
                "repo-unreachable", f"{self._remote.authority} does not answer by ssh: {e}"
            ) from e
        except Rejected:
            if transport is not None:
                transport.close()
            raise
        return _Channel(transport, channel)

    def _prefer_known_types(self, transport: paramiko.Transport) -> None:
        """The host has several keys; it should show one of those that are known."""
        options = transport.get_security_options()
        known = {key.get_name() for key in self._known}
        names = known | ({"rsa-sha2-512", "rsa-sha2-256"} if _RSA in known else set())
        options.key_types = sorted(options.key_types, key=lambda name: name not in names)

    def _check_host(self, shown: paramiko.PKey) -> None:
        if any(key.asbytes() == shown.asbytes() for key in self._known):
            return
        digest = hashlib.sha256(shown.asbytes()).digest()
        print_ = f"{shown.get_name()} SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
        if self._known:
            raise Rejected(
                "host-key-changed",
                f"{_name(self._remote)} shows a key that is not the known one ({print_}); somebody"
                " may be in between. If the host changed its key, correct GIT_KNOWN_HOSTS_FILE",
            )
        raise Rejected(
            "host-key-unknown",
            f"the key of {_name(self._remote)} is not known ({print_}); compare it with what the"
            " host publishes and add it to GIT_KNOWN_HOSTS_FILE (ssh-keyscan writes the line)",
        )


class _Channel:
    """What dulwich reads and writes."""

    def __init__(self, transport: paramiko.Transport, channel: paramiko.Channel) -> None:
        self._transport, self._channel = transport, channel
        self.stderr = channel.makefile_stderr("rb")

    def read(self, size: int) -> bytes:
        found = bytearray()
        with _hangup():
            while len(found) < size and (chunk := self._channel.recv(size - len(found))):
                found += chunk
        return bytes(found)

    def write(self, data: bytes) -> int:
        with _hangup():
            self._channel.sendall(data)
        return len(data)

    def can_read(self) -> bool:
        return self._channel.recv_ready()

    def close(self) -> None:
        with suppress(*_GONE):
            self._channel.close()
        self._transport.close()


@contextmanager
def _hangup() -> Iterator[None]:
    try:
        yield
    except _GONE as e:
        raise HangupException from e


def _name(remote: Remote) -> str:
    """As known_hosts names it."""
    return remote.host if remote.port == PORTS["ssh"] else f"[{remote.host}]:{remote.port}"


def _private(text: str, remote: Remote) -> paramiko.PKey:
    if not text:
        raise Rejected(
            "repo-unauthorized",
            f"the runner has no key for {remote.authority}: name one in GIT_CREDENTIALS_FILE",
        )
    for kind in _KEY_TYPES:
        try:
            return kind.from_private_key(io.StringIO(text))
        except (paramiko.SSHException, ValueError, IndexError):
            continue
    raise Rejected(
        "git-credentials",
        f"the key for {remote.authority} is no Ed25519, ECDSA or RSA key, or has a passphrase",
    )


def _known(text: str, name: str) -> list[paramiko.PKey]:
    known = paramiko.HostKeys()
    with tempfile.NamedTemporaryFile("w") as file:  # it reads from names alone
        file.write(text)
        file.flush()
        known.load(file.name)
    return list((known.lookup(name) or {}).values())
