"""A stack started as a user would, with all that it started in sight."""

import contextlib
import json
import os
import signal
import subprocess
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

WFHUB = str(Path(sysconfig.get_path("scripts")) / "wfhub")
READY_S_MAX = 100.0  # several stacks start at once on two cores; a test ends at 120
END_S_MAX = 40.0

T = TypeVar("T")


@dataclass
class Up:
    """`wfhub up`, and what it said."""

    data: Path | None  # None: the default
    arguments: Sequence[str] = ("--port", "0")
    env: dict[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    lines: list[str] = field(default_factory=list)
    process: "subprocess.Popen[str]" = field(init=False)
    _said: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> "Up":
        where = ("--data", str(self.data)) if self.data else ()
        self.process = subprocess.Popen(
            [*self.prefix, WFHUB, "up", *where, *self.arguments],
            env={**plain_environment(), **self.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self.lines.append(line.rstrip())
                self._said.notify_all()
        with self._said:
            self.lines.append("(end)")
            self._said.notify_all()

    def said(self, text: str, *, within_s: float = READY_S_MAX) -> str:
        """The first line with `text`, once it is said."""

        def found() -> str | None:
            hit = next((line for line in self.lines if text in line), None)
            assert hit or "(end)" not in self.lines, "\n".join(self.lines)
            return hit

        with self._said:
            line = self._said.wait_for(found, within_s)
        assert line, f"not said: {text!r}; but:\n" + "\n".join(self.lines)
        return str(line)

    def ready(self) -> "Up":
        self.said("ready http")
        return self

    @property
    def url(self) -> str:
        return self.said("ready http").split()[-1]

    def below(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def of_each(self, look: Callable[[psutil.Process], T]) -> list[T]:
        """What it finds of each process below. One that has ended meanwhile shows nothing: the
        database has a process for each connection, and the runner looks at its sandbox."""
        found = []
        for process in self.below():
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(look(process))
        return found

    def find(self, name: str) -> psutil.Process | None:
        """The process that has become `name`: a launcher that is still on its way is not it."""
        for process in self.below():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if name in line and "privileges.py" not in line:
                    return process
        return None

    def child(self, name: str) -> psutil.Process:
        found = eventually(lambda: self.find(name))
        assert isinstance(found, psutil.Process)
        return found

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(END_S_MAX)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(END_S_MAX)


def plain_environment() -> dict[str, str]:
    """Ours, without what would change the stack."""
    ours = ("WFHUB_", "LLM_", "NATS_", "DATABASE_", "OPENAI_", "OLLAMA_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def gone(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that are still there after a while: none, one hopes."""
    psutil.wait_procs(processes, timeout=END_S_MAX)
    return alive(processes)


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """A zombie is none: it ended, and whoever is process 1 here has not looked yet."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def get(url: str, token: str = "") -> tuple[int, Any]:
    request = urllib.request.Request(url)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def eventually(check: Callable[[], Any], *, within_s: float = 30) -> Any:
    deadline = time.monotonic() + within_s
    while not (value := check()):
        assert time.monotonic() < deadline, f"did not happen within {within_s} s"
        time.sleep(0.05)
    return value


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    """Starts stacks that are ended with the test, whatever happens in it."""
    every: list[Up] = []

    def start(**settings: Any) -> Up:
        up = Up(settings.pop("data", tmp_path / "data"), **settings).start()
        every.append(up)
        return up

    yield start
    for up in every:
        if up.process.poll() is None:
            up.process.terminate()
            up.process.wait(END_S_MAX)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One stack for the tests of a module that do not end it."""
    running = Up(
        tmp_path_factory.mktemp("stack") / "data",
        env={"OPENAI_API_KEY": "canary-openai", "AWS_SECRET_ACCESS_KEY": "canary-aws"},
    ).start()
    try:
        yield running.ready()
    finally:
        running.process.terminate()
        running.process.wait(END_S_MAX)
