"""File servers on loopback and mounts of what they share, for tests inside a guest (guest.py).

`Nfs` is the kernel's server (4.2), `Ganesha` one that is a program, `Smb` is Samba. Each shares
`FOLDER` of the guest's own disk. Nothing here is for this machine: it starts servers as root, and
changes /etc.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER = Path("/disk/srv")
AT = Path("/share")
UID = 64001
GRACE_S = 10  # in which clients take their locks again after a restart
START_S_MAX = 60.0
MOUNT_TRIES = 5
_PASSWORD = "of-a-test"
SMB_USER = f"username=share,password={_PASSWORD}"


def run(*argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done


class Server(ABC):
    """`kind` is how it is named in WFHUB_SHARE."""

    kind: str
    options: str  # what docs/deploy/network-storage.md says to mount with
    type: str
    device: str

    apart: str  # an option for a second mount that shares no cache with the first

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None:
        """At once, as far as a server can: no client is told."""

    @contextmanager
    def mounted(self, at: Path, options: str = "", inner: str = "") -> Iterator[Path]:
        """`options` come after those that are recommended, and so win."""
        at.mkdir(parents=True, exist_ok=True)
        both = f"{self.options},{options}".rstrip(",")
        argv = ("mount", "-t", self.type, "-o", both, f"{self.device}{inner}", at)
        for _ in range(MOUNT_TRIES - 1):  # clients give up on a server that is slow to come
            if not run(*argv, check=False).returncode:
                break
        else:
            run(*argv)
        try:
            yield at
        finally:
            if run("umount", at, check=False).returncode:
                run("umount", "--lazy", at)


class Nfs(Server):
    kind, type, device = "nfs", "nfs", "127.0.0.1:/"
    options, apart = "rw,hard,nfsvers=4.2", "nosharecache"

    def __init__(self, export: str = "no_root_squash") -> None:
        self.export = export

    def start(self) -> None:
        for module in ("nfsd", "nfsv4"):
            run("modprobe", module)
        Path("/etc/nfs.conf").write_text(
            f"[nfsd]\nvers3=n\nvers4.2=y\nthreads=4\ngrace-time={GRACE_S}\nlease-time={GRACE_S}\n"
            "[mountd]\nmanage-gids=n\n"
        )
        Path("/etc/exports").write_text(
            f"{FOLDER} 127.0.0.1(rw,sync,fsid=0,no_subtree_check,{self.export})\n"
        )
        for kind, at in (("nfsd", "/proc/fs/nfsd"), ("rpc_pipefs", "/var/lib/nfs/rpc_pipefs")):
            if not os.path.ismount(at):
                Path(at).mkdir(parents=True, exist_ok=True)
                run("mount", "-t", kind, kind, at)
        for daemon in (("nfsdcld",), ("rpc.mountd", "-N", "3")):
            if run("pidof", daemon[0], check=False).returncode:
                run(*daemon)
        run("exportfs", "-ra")
        run("rpc.nfsd", "4")

    def stop(self) -> None:
        run("rpc.nfsd", "0")


class Ganesha(Server):
    kind, type, device = "ganesha", "nfs", "127.0.0.1:/share"
    options, apart = "rw,hard,nfsvers=4.2", "nosharecache"

    def start(self) -> None:
        run("modprobe", "nfsv4")
        config = Path("/etc/ganesha.conf")
        config.write_text(
            "NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false;"
            " Rpc_Rdma_Port = 0; }\n"
            f"NFSv4 {{ Grace_Period = {GRACE_S}; Lease_Lifetime = {GRACE_S};"
            " RecoveryBackend = fs; }\n"
            f"EXPORT {{ Export_Id = 1; Path = {FOLDER}; Pseudo = /share; Protocols = 4;"
            " Access_Type = RW; Squash = No_Root_Squash; SecType = sys; FSAL { Name = VFS; } }\n"
        )
        Path("/run/ganesha").mkdir(exist_ok=True)
        run("ganesha.nfsd", "-f", config, "-L", "/disk/ganesha.log", "-p", "/run/ganesha/pid")
        _listening(2049)

    def stop(self) -> None:
        _killed("ganesha.nfsd")


class Smb(Server):
    kind, type, device = "smb", "cifs", "//127.0.0.1/share"
    apart = "nosharesock"

    def __init__(self, share: str = "") -> None:
        """`share`: lines of smb.conf for the share."""
        self._share = share
        credentials = Path("/etc/wfhub-smb")
        self.options = (
            f"credentials={credentials},uid={UID},gid={UID},file_mode=0644,dir_mode=0755,"
            "vers=3.1.1,hard,cache=none,nolease,mfsymlinks"
        )
        credentials.write_text(f"username=share\npassword={_PASSWORD}\n")
        credentials.chmod(0o600)

    def start(self) -> None:
        run("modprobe", "cifs")
        if run("id", "share", check=False).returncode:
            run("useradd", "--uid", "3000", "--no-create-home", "share")
            config = (
                "[global]\nserver role = standalone server\ndisable netbios = yes\n"
                "smb ports = 445\nload printers = no\nlog level = 0\n"
                f"[share]\npath = {FOLDER}\nread only = no\nforce user = share\n{self._share}\n"
            )
            Path("/etc/samba/smb.conf").write_text(config)
            for folder in ("/run/samba", "/var/lib/samba/private", "/var/log/samba"):
                Path(folder).mkdir(parents=True, exist_ok=True)
            subprocess.run(
                ["smbpasswd", "-a", "-s", "share"],
                input=f"{_PASSWORD}\n{_PASSWORD}\n",
                text=True,
                check=True,
                capture_output=True,
            )
        os.chown(FOLDER, 3000, 3000)  # whom all clients are to Samba
        run("smbd", "--daemon", "--log-basename=/disk")
        _listening(445)

    def stop(self) -> None:
        """With the children that serve clients."""
        _killed("smbd")


class Squashed(Nfs):
    """Whose clients' root is nobody, as exports are unless it is said otherwise."""

    kind = "squashed"

    def __init__(self) -> None:
        super().__init__("root_squash")


SERVERS: dict[str, type[Server]] = {each.kind: each for each in (Nfs, Squashed, Ganesha, Smb)}


def _listening(port: int) -> None:
    deadline = time.monotonic() + START_S_MAX
    wanted = f":{port:04X} "
    while not any(
        wanted in line and " 0A " in line
        for table in Path("/proc/net").glob("tcp*")
        for line in table.read_text().splitlines()
    ):
        assert time.monotonic() < deadline, f"no server listens on {port}"
        time.sleep(0.1)


def _killed(name: str) -> None:
    """All of a program's processes, the guest's own alone."""
    while found := run("pidof", name, check=False).stdout.split():
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.05)


def emptied() -> None:
    for path in FOLDER.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def main() -> None:
    """`python share_lab.py KIND COMMAND…`: the command with that share at /share."""
    kind, *argv = sys.argv[1:]
    FOLDER.mkdir(exist_ok=True)
    os.chown(FOLDER, UID, UID)
    server = SERVERS[kind]()
    server.start()
    with server.mounted(AT):
        ended = subprocess.run(argv, env={**os.environ, "WFHUB_SHARE": kind, "SHARE_AT": str(AT)})
    sys.exit(ended.returncode)


if __name__ == "__main__":
    main()
