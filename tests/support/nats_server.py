"""Test support: a NATS server that comes and goes, with its port."""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import own_ports


class NatsServer:
    """Its store stays, unless it is started `wiped`; a copy of it can be put back."""

    def __init__(self, folder: Path, *, config: str = "") -> None:
        """`config`: text for its file of settings, beside the arguments that it is given."""
        self._config = folder / "nats.conf"
        self._config.write_text(config)
        self.port = own_ports.free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._folder, self._stores = folder, 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wiped: bool = False) -> None:
        self._stores += wiped
        binary = Path(sysconfig.get_path("scripts")) / "nats-server"
        self._process = subprocess.Popen(
            [
                binary,
                "-c",
                self._config,
                "-a",
                "127.0.0.1",
                "-p",
                str(self.port),
                "-js",
                "-sd",
                self._store(),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def keep_copy(self) -> None:
        """Of the store as it is now; the server must not run."""
        shutil.copytree(self._store(), self._folder / "copy")

    def put_copy_back(self) -> None:
        shutil.rmtree(self._store())
        shutil.copytree(self._folder / "copy", self._store())

    def _store(self) -> Path:
        return self._folder / f"store{self._stores}"
