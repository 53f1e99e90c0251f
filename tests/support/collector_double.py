"""A collector that takes OTLP over HTTP, and keeps the spans."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_S = 60.0


@dataclass(frozen=True)
class Seen:
    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str  # empty: a root
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, str | int | bool]
    text: str  # the whole span


@dataclass
class Collector:
    port: int
    spans: list[Seen] = field(default_factory=list)
    _more: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, body: bytes) -> None:
        found = [*_spans(ExportTraceServiceRequest.FromString(body))]
        with self._more:
            self.spans += found
            self._more.notify_all()

    def wait(self, enough: Callable[[list[Seen]], bool], *, within_s: float = WAIT_S) -> list[Seen]:
        """The spans, once they are `enough`."""
        with self._more:
            if not self._more.wait_for(lambda: enough(self.spans), within_s):
                names = [f"{span.service}: {span.name}" for span in self.spans]
                raise AssertionError(f"not enough after {within_s} s: {names}")
            return list(self.spans)


def _spans(request: ExportTraceServiceRequest) -> Iterator[Seen]:
    for resource in request.resource_spans:
        named = {each.key: each.value.string_value for each in resource.resource.attributes}
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield Seen(
                named["service.name"],
                span.name,
                span.kind,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                span.status.code == 2,
                {
                    each.key: each.value.string_value or each.value.int_value
                    for each in span.attributes
                },
                str(span),
            )


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                double.take(body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    double = Collector(server.server_address[1])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
