"""Metrics of a gateway, in Prometheus' text form; docs/metrics.md lists them.

Labels have few values: names of providers, our own codes. No model (an agent may name any), no
project, no id. One registry a gateway.
"""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from wfhub_common.messages.budgets import NUSD_PER_USD

from wfhub_llm_gateway.settlements import Settlement

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "wfhub_gateway_"
_FIRST_BYTE_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_WHOLE_S = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._exchanges = self._counter(
            "exchanges", "Exchanges that were settled; code is empty for an answer.", "code"
        )
        self._refusals = self._counter("refusals", "Requests that were not admitted.", names="code")
        self._tries = self._counter(
            "failed_tries", "Servers that were asked and did not answer.", "reason"
        )
        self._tokens = self._counter("tokens", "Tokens as servers reported them.", "kind")
        self._cost = self._counter("cost_usd", "What exchanges cost by the price table.")
        self._first_byte = self._histogram(
            "first_byte_seconds", "To the first byte.", _FIRST_BYTE_S
        )
        self._whole = self._histogram("exchange_seconds", "Of whole exchanges.", _WHOLE_S)

    def _counter(self, name: str, text: str, label: str = "", *, names: str = "") -> Counter:
        labels = [names] if names else ["provider", *([label] if label else [])]
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, text, ["provider"], buckets=buckets, registry=self.registry)

    def watch(self, name: str, text: str, now: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(PREFIX + name, text, registry=self.registry).set_function(now)

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

    def text(self) -> bytes:
        return generate_latest(self.registry)
