"""Files of the workspace, and what the model has seen of them.

A file that is there is written whole only if the model has read it whole and nobody changed it
since (a command, another call of the same answer): what it has not seen it would throw away. A
patch is safe without that: its text must occur exactly once in the file as it is now.
Raises: ToolError, OSError, ValueError (a NUL in a path).
"""

from __future__ import annotations

import hashlib
import os

from .errors import ToolError

READ_LINES = 400
READ_CHARS_MAX = 18_000  # of one read; the next begins where it ended
LINE_CHARS_MAX = 2_000
READ_BYTES_MAX = 64 * 1024 * 1024  # a larger file is for run_command with grep or sed


class Files:
    def __init__(self) -> None:
        self.seen: dict[str, bytes] = {}  # real path → digest of the content that was seen whole

    def read(self, path: str, start_line: int = 1, line_count: int = READ_LINES) -> str:
        data = content_of(path)
        lines = data.decode("utf-8", "replace").split("\n")
        if lines[-1] == "":
            lines.pop()
        start = max(1, start_line)
        if start > max(1, len(lines)):
            raise ToolError(f"{path} has only {len(lines)} lines")
        asked = lines[start - 1 : start - 1 + max(1, line_count)]
        shown, whole = fitting(asked, start)
        end = start + len(shown) - 1
        if whole and start == 1 and end == len(lines):
            self.note(path, data)
        more = f"\n[go on with start_line {end + 1}]" if len(shown) < len(asked) else ""
        text = "\n".join(shown)
        return f"{path}, lines {start} to {end} of {len(lines)}:\n{text}{more}"

    def write(self, path: str, content: str) -> str:
        new = content.encode("utf-8", "replace")
        before = content_of(path) if os.path.exists(path) else b""
        if before not in (b"", new) and not self.is_seen(path, before):
            raise ToolError(
                f"{path} is there, and you have not read all of it as it is now: read it first,"
                " or change a part of it with patch_file"
            )
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self.put(path, new)
        return f"wrote {len(new)} bytes to {path}"

    def patch(self, path: str, search: str, replace: str) -> str:
        before, old = content_of(path), search.encode("utf-8", "replace")
        count = before.count(old) if old else 0
        if count != 1:
            hint = "read it again and copy exactly" if count == 0 else "add lines around it"
            raise ToolError(f"`search` must occur once in {path}, but occurs {count} times; {hint}")
        after = before.replace(old, replace.encode("utf-8", "replace"))
        seen = self.is_seen(path, before)
        self.put(path, after)
        if not seen:
            self.seen.pop(os.path.realpath(path), None)
        return f"patched {path} at line {before[: before.index(old)].count(10) + 1}"

    def put(self, path: str, data: bytes) -> None:
        with open(path, "wb") as file:
            file.write(data)
        self.note(path, data)

    def note(self, path: str, data: bytes) -> None:
        self.seen[os.path.realpath(path)] = hashlib.sha256(data).digest()

    def is_seen(self, path: str, data: bytes) -> bool:
        return self.seen.get(os.path.realpath(path)) == hashlib.sha256(data).digest()


def content_of(path: str) -> bytes:
    if os.path.getsize(path) > READ_BYTES_MAX:
        raise ToolError(f"{path} is over {READ_BYTES_MAX} bytes: use run_command on it")
    with open(path, "rb") as file:
        return file.read()


def fitting(lines: list[str], number: int) -> tuple[list[str], bool]:
    """The first lines that fit a read, numbered from `number`, the first always; and whether each
    is whole."""
    shown: list[str] = []
    room, whole = READ_CHARS_MAX, True
    for n, line in enumerate(lines, number):
        missing = len(line) - LINE_CHARS_MAX
        if missing > 0:
            whole = False
            line = f"{line[:LINE_CHARS_MAX]}[... {missing} characters left out: use cut -c ...]"
        room -= len(line) + len(str(n)) + 2
        if room < 0 and shown:
            break
        shown.append(f"{n}\t{line}")
    return shown, whole
