"""The commands that the demo runs, as a person would: `wfhub up`, `wfhub run`, `wfhub proof …`.

Each is shown before it runs, and what it prints is shown as it comes.
Raises: CommandFailed.
"""

import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wfhub_local.layout import Layout

STACK_STOP_S_MAX = 60.0
STACK_LINES_MAX = 50  # kept of what the stack said, for when it does not start
# Of the caller's environment, all that a command is given.
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "COLUMNS", "NO_COLOR", "TMPDIR")
_WFHUB = (sys.executable, "-P", "-m", "wfhub_client.cli")


class Places(Protocol):
    """Where a run keeps what: the stack's data, the toolchain, and what its commands trust."""

    @property
    def data(self) -> Path: ...
    @property
    def toolchain(self) -> Path: ...
    @property
    def config(self) -> Path: ...


class CommandFailed(Exception):
    """A command of the demo did not do what it must do for the demo to go on."""


@dataclass(frozen=True)
class Shell:
    """`env` is all that its commands get."""

    env: Mapping[str, str]

    def wfhub(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `wfhub …`; stdout is returned, stderr shown as it comes."""
        say("", f"$ wfhub {shlex.join(arguments)}")
        done = subprocess.run(
            [*_WFHUB, *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            raise CommandFailed(f"`wfhub {arguments[0]} …` ended with {done.returncode}")
        return done

    def wfhub_json(self, *arguments: str) -> dict[str, Any]:
        """The JSON object in the last line of `wfhub … --json`, whatever its exit code."""
        done = self.wfhub(*arguments, "--json", check=False)
        try:
            value: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError) as e:
            raise CommandFailed(
                f"`wfhub {arguments[0]} …` ended with {done.returncode} and without a result"
            ) from e
        return value


def say(*lines: str) -> None:
    print("\n".join(lines), flush=True)


@contextmanager
def stack(
    folder: Places, env: Mapping[str, str], gateway_env: Mapping[str, str]
) -> Iterator[Shell]:
    """A local stack with the demo's toolchain, and a shell whose commands use it."""
    arguments = ["up", f"--data={folder.data}", "--port=0", f"--toolchain={folder.toolchain}"]
    own = shell_env(folder, env)
    given = " ".join(f"{name}={_shown(name, value)}" for name, value in gateway_env.items())
    say("", f"$ {given} wfhub {shlex.join(arguments)}")
    process = subprocess.Popen(
        [*_WFHUB, *arguments],
        env={**own, **gateway_env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C is for the command; the stack is ended after it
    )
    assert process.stdout is not None
    try:
        url = _ready_url(process)
        threading.Thread(target=_show_rest, args=(process,), daemon=True).start()
        token = Layout(folder.data).admin_token
        yield Shell({**own, "WFHUB_URL": url, "WFHUB_TOKEN_FILE": str(token)})
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STACK_STOP_S_MAX)


def shell_env(folder: Places, env: Mapping[str, str]) -> dict[str, str]:
    kept = {name: env[name] for name in KEPT_VARIABLES if name in env}
    return {**kept, "XDG_CONFIG_HOME": str(folder.config), "PYTHONUNBUFFERED": "1"}


def _ready_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said = [*said[-STACK_LINES_MAX:], line.rstrip()]
        say(f"  {line.rstrip()}")
        if line.startswith("ready "):
            return line.split()[1]
    raise CommandFailed(f"the stack did not start (exit code {process.wait()})")


def _show_rest(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        say(f"  stack: {line.rstrip()}")


def _shown(name: str, value: str) -> str:
    return "…" if name.endswith("_KEY") else shlex.quote(value)
