"""Metrics as Prometheus reads them, and spans as a collector gets them."""

import asyncio
from collections.abc import Iterator

import pytest
from collector_double import Collector, Seen, collecting
from prometheus_client.parser import text_string_to_metric_families


def samples(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_exchanges_tokens_money_and_refusals(
    start_gateway, scheduler, upstream, post, opened, tmp_path
):
    (tmp_path / "prices.yaml").write_text("models: {m: {input: 1000, output: 1000}}")
    gateway = await start_gateway(
        llm_base_url=upstream.url("ok"), llm_prices=str(tmp_path / "prices.yaml")
    )
    token, _ = scheduler.grant(budget_tokens=30)
    for _ in range(3):
        await post(gateway, token, model="m")
    found = samples((await gateway.get("/metrics")).text)
    assert found["wfhub_gateway_exchanges_total code= provider=openai"] == 2
    assert found["wfhub_gateway_refusals_total code=budget-exceeded"] == 1
    assert found["wfhub_gateway_tokens_total kind=prompt provider=openai"] == 14
    assert found["wfhub_gateway_cost_usd_total provider=openai"] == pytest.approx(0.024)
    assert found["wfhub_gateway_first_byte_seconds_count provider=openai"] == 2
    assert found["wfhub_gateway_open_exchanges"] == 0


async def test_an_agent_does_not_see_the_metrics(start_gateway, scheduler, upstream):
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, _ = scheduler.grant()
    answer = await gateway.get("/metrics", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 403
    assert b"wfhub_gateway_" not in answer.content


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as double:
        yield double


TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def test_each_exchange_is_a_span_by_the_genai_conventions_without_what_was_said(
    start_gateway, scheduler, upstream, post, collector
):
    for number, behaviour in enumerate(("ok", "failing")):
        gateway = await start_gateway(
            llm_base_url=upstream.url(behaviour), otel_exporter_otlp_endpoint=collector.url
        )
        token, info = scheduler.grant()
        await post(gateway, token, model="m", max_tokens=50)
        spans = await asyncio.to_thread(collector.wait, lambda seen, n=number: len(seen) > n)
        span = spans[number]
        values = span.attributes
        assert (span.name, span.kind, span.parent_id) == ("chat m", 3, "")
        assert span.end_ns >= span.start_ns
        assert values["gen_ai.operation.name"] == "chat"
        assert values["gen_ai.provider.name"] == "openai"
        assert values["gen_ai.request.model"] == "m"
        assert values["gen_ai.request.max_tokens"] == 50
        assert values["wfhub.attempt.id"] == info.attempt_id
        assert "hello there" not in span.text
        if behaviour == "ok":
            assert values["gen_ai.response.model"] == "double"
            assert values["gen_ai.usage.input_tokens"] == 7
            assert values["gen_ai.usage.output_tokens"] == 5
            assert not span.failed
        else:
            assert values["error.type"] == "upstream-error"
            assert span.failed


async def test_an_exchange_is_below_the_span_that_the_relay_names(
    start_gateway, scheduler, upstream, collector
):
    gateway = await start_gateway(
        llm_base_url=upstream.url("ok"), otel_exporter_otlp_endpoint=collector.url
    )
    token, _ = scheduler.grant()
    for number, given in enumerate((f"00-{TRACE}-{SPAN}-01", "00-nonsense-01")):  # one connection
        await gateway.post(
            "/v1/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": "hello"}]},
            headers={"authorization": f"Bearer {token}", "traceparent": given},
        )
        spans = await asyncio.to_thread(collector.wait, lambda seen, n=number: len(chats(seen)) > n)
        span = chats(spans)[number]
        below = (span.trace_id == TRACE, span.parent_id)
        assert below == ((True, SPAN) if number == 0 else (False, ""))


def chats(spans: list[Seen]) -> list[Seen]:
    """Without those of the scheduler, which is in this process too."""
    return [span for span in spans if span.name == "chat m"]
