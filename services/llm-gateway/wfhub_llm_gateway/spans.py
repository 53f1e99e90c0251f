"""OpenTelemetry spans of exchanges, by the GenAI conventions (semantic conventions 1.37, the status
of which is "development"); sent by OTLP over HTTP when OTEL_EXPORTER_OTLP_ENDPOINT is set.

One span of kind CLIENT an exchange, made when it is settled: nothing waits for a collector. What
was said is not in it. The libraries are the extra `otel`, imported only when spans are wanted.
Raises: SystemExit when they are not installed.
"""

import time
from typing import Any

from wfhub_llm_gateway.formats.asked import Asked
from wfhub_llm_gateway.ledger import Opening
from wfhub_llm_gateway.settlements import Settlement

SERVICE = "wfhub-llm-gateway"
_PROVIDERS = {"gemini": "gcp.gemini"}


class Spans:
    def __init__(self, processor: Any) -> None:
        """`processor`: an OpenTelemetry SpanProcessor."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        self._provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("wfhub_llm_gateway")

    def settled(self, asked: Asked, opening: Opening, settlement: Settlement, model: str) -> None:
        """`model`: as the answer names it."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        if asked.operation == "count":
            return
        ended_ns = time.time_ns()
        attributes = attributes_of(asked, opening, settlement, model)
        span = self._tracer.start_span(
            f"{attributes['gen_ai.operation.name']} {asked.model}".rstrip(),
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=ended_ns - settlement.duration_ms * 1_000_000,
        )
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)

    def close(self) -> None:
        """Blocking: what waits is sent."""
        self._provider.shutdown()


def attributes_of(
    asked: Asked, opening: Opening, settlement: Settlement, model: str
) -> dict[str, str | int]:
    operation = "generate_content" if asked.format == "gemini" else "chat"
    refused = str(settlement.status) if settlement.status >= 400 else None
    found: dict[str, str | int | None] = {
        "gen_ai.operation.name": "embeddings" if asked.operation == "embed" else operation,
        "gen_ai.provider.name": _PROVIDERS.get(settlement.provider, settlement.provider),
        "gen_ai.request.model": asked.model or None,
        "gen_ai.request.max_tokens": asked.completion_max,
        "gen_ai.response.model": model or None,
        "gen_ai.usage.input_tokens": settlement.prompt_tokens,
        "gen_ai.usage.output_tokens": settlement.completion_tokens,
        "error.type": settlement.code or refused,
        "wfhub.project.id": opening.project_id,
        "wfhub.task.id": opening.task_id,
        "wfhub.attempt.id": opening.attempt_id,
        "wfhub.cost.nusd": settlement.charged_nusd,
    }
    return {key: value for key, value in found.items() if value is not None}


def exporting(endpoint: str) -> Spans | None:
    """To a collector; None without one."""
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
    return Spans(BatchSpanProcessor(exporter))
