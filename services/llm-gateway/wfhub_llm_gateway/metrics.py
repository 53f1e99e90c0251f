"""Metrics of a gateway, in Prometheus' text form; docs/metrics.md lists them.

Labels have few values: names of providers, our own codes. No model (an agent may name any), no
project, no id.
"""

from typing import Any

from wfhub_common import metrics
from wfhub_common.messages.budgets import NUSD_PER_USD

from wfhub_llm_gateway.settlements import Settlement

PREFIX = "wfhub_gateway_"
_FIRST_BYTE_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_WHOLE_S = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)


class Metrics(metrics.Metrics):
    def __init__(self) -> None:
        super().__init__(PREFIX)
        self._exchanges = self.counter(
            "exchanges",
            "Exchanges that were settled; code is empty for an answer.",
            *("provider", "code"),
        )
        self._refusals = self.counter("refusals", "Requests that were not admitted.", "code")
        self._tries = self.counter(
            "failed_tries",
            "Servers that were asked and did not answer.",
            *("provider", "reason"),
        )
        self._tokens = self.counter(
            "tokens", "Tokens as servers reported them.", "provider", "kind"
        )
        self._cost = self.counter("cost_usd", "What exchanges cost by the price table.", "provider")
        self._first_byte = self.histogram(
            "first_byte_seconds", "To the first byte.", "provider", buckets=_FIRST_BYTE_S
        )
        self._whole = self.histogram(
            "exchange_seconds", "Of whole exchanges.", "provider", buckets=_WHOLE_S
        )

    def refused(self, code: str) -> None:
        self._refusals.labels(code).inc()

    def settled(self, settlement: Settlement, tries: tuple[str, ...]) -> None:
        provider = settlement.provider
        self._exchanges.labels(provider, settlement.code).inc()
        counts: dict[str, Any] = {
            "prompt": settlement.prompt_tokens,
            "completion": settlement.completion_tokens,
            "cached": settlement.cached_tokens,
        }
        for kind, count in counts.items():
            if count:
                self._tokens.labels(provider, kind).inc(count)
        if settlement.charged_nusd:
            self._cost.labels(provider).inc(settlement.charged_nusd / NUSD_PER_USD)
        if settlement.first_byte_ms is not None:
            self._first_byte.labels(provider).observe(settlement.first_byte_ms / 1000)
        self._whole.labels(provider).observe(settlement.duration_ms / 1000)
        for each in tries:
            other, _, reason = each.partition(" ")
            self._tries.labels(other, reason).inc()
