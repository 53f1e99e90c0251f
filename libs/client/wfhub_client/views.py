"""How a running task is shown: a line per step, and the log's last lines below them.

On a terminal (rich) the tail moves along under the steps; elsewhere every line is printed once.
Calls come from two threads, one for events and one for logs. Units: seconds.
"""

import threading
from collections import deque
from types import TracebackType
from typing import IO, TYPE_CHECKING, Protocol, Self

from wfhub_client.text import elapsed, one_line, safe

if TYPE_CHECKING:  # rich is slow to import, and only a terminal needs it
    from rich.console import Group

TAIL_LINES = 8


class View(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
    def step(self, text: str, at_s: float) -> None: ...
    def log(self, line: str) -> None: ...
    def note(self, text: str) -> None: ...


def view_on(stream: IO[str]) -> View:
    return RichView(stream) if stream.isatty() else PlainView(stream)


class PlainView:
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def step(self, text: str, at_s: float) -> None:
        self._print(f"[{elapsed(at_s):>7}] {text}")

    def log(self, line: str) -> None:
        self._print(f"          | {safe(line)}")

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, line: str) -> None:
        with self._lock:
            print(line, file=self._stream, flush=True)


class RichView:
    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._live = Live(
            console=Console(file=stream, highlight=False),
            get_renderable=self._render,
            refresh_per_second=8,
            transient=True,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def step(self, text: str, at_s: float) -> None:
        self._above(f"{elapsed(at_s):>8}  ", text)

    def log(self, line: str) -> None:
        self._tail.append(one_line(line, 500))

    def note(self, text: str) -> None:
        self._above("", text)

    def _above(self, dim: str, text: str) -> None:
        from rich.text import Text

        self._live.console.print(Text.assemble((dim, "cyan"), text))  # no markup is read

    def _render(self) -> "Group":
        from rich.console import Group
        from rich.text import Text

        lines = [Text(f"  │ {line}", style="dim", no_wrap=True) for line in list(self._tail)]
        return Group(*lines)
