"""Structured logs: one JSON line an event on standard error, fields as keywords.

`log = get_logger(__name__)`; `log.warning("lease lost", task_id=…)`. Never a secret as a field.
What is said of work that belongs to a trace has its `trace_id`.
A line that cannot be written, to a full disk or to nobody, is lost, and nothing else with it.
"""

import logging
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog

from wfhub_common import tracing


def configure(service: str, *, level: str = "INFO", format_: str = "json") -> None:
    """Call once, at the edge of a process. Library logs go the same way from WARNING up."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if format_ == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _with_trace,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, _Lossy())),
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format='{"service":"' + service + '","level":"%(levelname)s","logger":"%(name)s",'
        '"event":"%(message)s"}',
    )


class _Lossy:
    """Standard error, as it is now; what cannot be written is dropped."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def _with_trace(_logger: Any, _method: str, event: Any) -> Any:
    if traceparent := tracing.current():
        event["trace_id"] = tracing.trace_id(traceparent)
    return event


def get_logger(name: str) -> Any:
    return structlog.get_logger(module=name)
