"""Traces: where a piece of work belongs, as a W3C traceparent, and spans of it for a collector.

A traceparent goes along in whatever carries the work: an HTTP header, a NATS header, a task's row.
Here it is a context variable, so that logs name the trace and what is asked of others is told. That
needs no library and costs a look at an empty variable. Spans are made only where
OTEL_EXPORTER_OTLP_ENDPOINT is set: then `set_up` imports OpenTelemetry (the extra `otel`) and sends
by OTLP over HTTP from a thread of its own; nothing waits for a collector. tracestate is not kept.

    with tracing.within(header), tracing.span("seal", attempt=attempt_id):
        …

Raises: SystemExit (`set_up`) when the libraries are not installed.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

HEADER = "traceparent"
INTERNAL, SERVER, CLIENT = "INTERNAL", "SERVER", "CLIENT"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")

_current: ContextVar[str] = ContextVar("traceparent", default="")
_tracer: "Tracer | None" = None


def parsed(header: str | None) -> str:
    """A traceparent as we pass it on; empty for one that is none."""
    found = _FORM.match(header or "")
    if found is None:
        return ""
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace, 16) or not int(span, 16):
        return ""
    return f"00-{trace}-{span}-{flags}"


def current() -> str:
    """Of the work that is done here; empty: it belongs to no trace."""
    return _current.get()


def trace_id(traceparent: str) -> str:
    return traceparent[3:35]


def headers() -> dict[str, str] | None:
    """What a request that we make says; None outside a trace."""
    here = _current.get()
    return {HEADER: here} if here else None


def detached() -> Context | None:
    """For a task that works for others too: a context of no trace. None: this one is."""
    if not _current.get():
        return None
    context = copy_context()
    context.run(_current.set, "")
    return context


@contextmanager
def within(traceparent: str) -> Iterator[None]:
    """As a part of that trace; empty: of none, whatever this task was made in."""
    token = _current.set(traceparent)
    try:
        yield
    finally:
        _current.reset(token)


class Span:
    """One that is open. Without a collector all of it does nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def name(self, name: str) -> None:
        if self._span is not None:
            self._span.update_name(name)

    def note(self, **attributes: str | int | float | bool) -> None:
        if self._span is not None:
            self._span.set_attributes(_spelled(attributes))

    def failed(self, why: str) -> None:
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", why)
            self._span.set_status(Status(StatusCode.ERROR))


_NO_SPAN = Span()


@contextmanager
def span(name: str, kind: str = INTERNAL, **attributes: str | int | float | bool) -> Iterator[Span]:
    """Below the current one, which it is meanwhile. An attribute `task_id` is `wfhub.task_id`."""
    if _tracer is None:
        yield _NO_SPAN
        return
    made = _tracer.start(name, parent=_current.get(), kind=kind, attributes=_spelled(attributes))
    token = _current.set(_traceparent(made))
    open_span = Span(made)
    try:
        yield open_span
    except BaseException as e:
        open_span.failed(getattr(e, "code", "") or type(e).__name__)
        raise
    finally:
        _current.reset(token)
        made.end()


def record(
    name: str, *, parent: str, seconds: float, **attributes: str | int | float | bool
) -> None:
    """What took so long, and ends now."""
    if _tracer is None or not parent:
        return
    ended_ns = time.time_ns()
    began_ns = ended_ns - round(seconds * 1e9)
    spelled = _spelled(attributes)
    _tracer.start(name, parent=parent, attributes=spelled, start_ns=began_ns).end(ended_ns)


def on() -> bool:
    return _tracer is not None


class Tracer:
    """Makes spans as `service`; `processor` takes them when they end."""

    def __init__(self, service: str, processor: "SpanProcessor") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        resource = Resource.create({"service.name": f"wfhub-{service}"})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(f"wfhub_{service.replace('-', '_')}")

    def start(
        self,
        name: str,
        *,
        parent: str = "",
        kind: str = INTERNAL,
        attributes: Mapping[str, str | int | float | bool] | None = None,
        start_ns: int | None = None,
    ) -> Any:
        """An OpenTelemetry span, to be ended; a root where there is no `parent`."""
        from opentelemetry.trace import SpanKind

        return self._tracer.start_span(
            name,
            context=_context(parent),
            kind=SpanKind[kind],
            attributes=attributes,
            start_time=start_ns,
        )

    def close(self) -> None:
        """Blocking: what waits is sent."""
        global _tracer
        if _tracer is self:
            _tracer = None
        self._provider.shutdown()


def set_up(service: str, endpoint: str) -> Tracer | None:
    """This process's; None without an endpoint."""
    global _tracer
    if not endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as e:
        raise SystemExit(
            "bad settings: OTEL_EXPORTER_OTLP_ENDPOINT: spans need `pip install workflow-hub[otel]`"
        ) from e
    exporter = OTLPSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces")
    _tracer = Tracer(service, BatchSpanProcessor(exporter))
    return _tracer


def _context(parent: str) -> Any:
    from opentelemetry.context import Context as OtelContext
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    root = OtelContext()
    if not parent:
        return root
    _, trace, span_, flags = parent.split("-")
    above = SpanContext(int(trace, 16), int(span_, 16), True, TraceFlags(int(flags, 16)))
    return set_span_in_context(NonRecordingSpan(above), root)


def _traceparent(span_: Any) -> str:
    of = span_.get_span_context()
    return f"00-{of.trace_id:032x}-{of.span_id:016x}-{int(of.trace_flags):02x}"


def _spelled(
    attributes: Mapping[str, str | int | float | bool],
) -> dict[str, str | int | float | bool]:
    """`http_route` and its like are OpenTelemetry's own words, all others ours."""
    return {
        key.replace("_", ".", 1) if key.startswith("http_") else f"wfhub.{key}": value
        for key, value in attributes.items()
    }
