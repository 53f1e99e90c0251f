"""Commands: run by /bin/sh, their output kept whole outside the workspace when it is long.

The model gets head and tail, and the path of a file that has all of it, so that it can look at the
rest with read_file or grep. The last OUTPUT_FILES_MAX such files are kept.
Raises: OSError, ValueError (a NUL in the command).
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from typing import IO, Callable  # noqa: UP035 - Python 3.8

COMMAND_S, COMMAND_S_MAX = 120, 900
OUTPUT_BYTES_MAX = 16_000  # of one command, given to the model: head and tail
KEPT_BYTES_MAX = 4 * 1024 * 1024  # of one command, in its file: its beginning
OUTPUT_FILES_MAX = 8
READER_S_MAX = 2.0  # a process left in the background may hold the pipe: it is not waited for
FOLDER = "wfhub-agent"  # in the folder for temporary files


class Shell:
    def __init__(self) -> None:
        self.count = 0  # of commands; names their files

    def run(self, command: str, timeout_s: int = COMMAND_S) -> str:
        self.count += 1
        timeout_s = max(1, min(timeout_s, COMMAND_S_MAX))
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that a timeout ends all that the command started
        )
        kept = Kept()
        reader = threading.Thread(target=kept.read, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            ended = f"exit code: {process.wait(timeout_s)}"
        except subprocess.TimeoutExpired:
            ended = f"killed: it ran longer than {timeout_s} s"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        reader.join(READER_S_MAX)
        return f"{ended}\n{kept.text(where=self._keep)}"

    def _keep(self, output: bytes) -> str:
        folder = os.path.join(tempfile.gettempdir(), FOLDER)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        oldest = os.path.join(folder, f"output-{self.count - OUTPUT_FILES_MAX}.txt")
        if os.path.exists(oldest):
            os.remove(oldest)
        path = os.path.join(folder, f"output-{self.count}.txt")
        with open(path, "wb") as file:
            file.write(output)
        return path


class Kept:
    """A command's output: its beginning up to KEPT_BYTES_MAX, its end, and how long it was."""

    def __init__(self) -> None:
        self.start, self.tail, self.size = bytearray(), b"", 0

    def read(self, pipe: IO[bytes]) -> None:
        for chunk in iter(lambda: os.read(pipe.fileno(), 65536), b""):
            self.size += len(chunk)
            self.start += chunk[: KEPT_BYTES_MAX - len(self.start)]
            self.tail = (self.tail + chunk)[-OUTPUT_BYTES_MAX // 2 :]

    def text(self, *, where: Callable[[bytes], str]) -> str:
        """`where` keeps the output and says under which path."""
        start, tail, size = bytes(self.start), self.tail, self.size
        if size <= OUTPUT_BYTES_MAX:
            return start.decode("utf-8", "replace")
        half = OUTPUT_BYTES_MAX // 2
        try:
            what = "all of it" if size <= KEPT_BYTES_MAX else f"its first {KEPT_BYTES_MAX} bytes"
            kept = f"; {what}: {where(start)}, for read_file or grep"
        except OSError as e:
            kept = f"; they could not be kept ({e.strerror})"
        missing = f"\n[... {size - 2 * half} bytes left out{kept} ...]\n".encode()
        return (start[:half] + missing + tail).decode("utf-8", "replace")
