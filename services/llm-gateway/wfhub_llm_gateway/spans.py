"""OpenTelemetry spans of exchanges, by the GenAI conventions (semantic conventions 1.37, the status
of which is "development"), where spans are wanted (wfhub_common.tracing).

One span of kind CLIENT an exchange, made when it is settled: nothing waits for a collector. What
was said is not in it.
"""

import time

from wfhub_common import tracing
from wfhub_common.tracing import Tracer

from wfhub_llm_gateway.formats.asked import Asked
from wfhub_llm_gateway.ledger import Opening
from wfhub_llm_gateway.settlements import Settlement

_PROVIDERS = {"gemini": "gcp.gemini"}


class Spans:
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def settled(self, asked: Asked, opening: Opening, settlement: Settlement, model: str) -> None:
        """Below what the request named, the agent's run. `model`: as the answer names it."""
        from opentelemetry.trace import Status, StatusCode

        if asked.operation == "count":
            return
        ended_ns = time.time_ns()
        attributes = attributes_of(asked, opening, settlement, model)
        span = self._tracer.start(
            f"{attributes['gen_ai.operation.name']} {asked.model}".rstrip(),
            parent=tracing.current(),
            kind=tracing.CLIENT,
            attributes=attributes,
            start_ns=ended_ns - settlement.duration_ms * 1_000_000,
        )
        if "error.type" in attributes:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)


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
