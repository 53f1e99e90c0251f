"""Metrics as Prometheus reads them, and spans as a collector gets them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
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


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: asyncio.Queue = asyncio.Queue()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].split()[0])
                body = await reader.readexactly(length)
                assert head.startswith("post /v1/traces ")
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            self.spans.put_nowait(span)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                await writer.drain()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    double = Collector()
    server = await asyncio.start_server(double.serve, "127.0.0.1", 0)
    double.port = server.sockets[0].getsockname()[1]
    yield double
    server.close()


async def test_each_exchange_is_a_span_by_the_genai_conventions_without_what_was_said(
    start_gateway, scheduler, upstream, post, collector
):
    endpoint = f"http://127.0.0.1:{collector.port}"
    for behaviour in ("ok", "failing"):
        gateway = await start_gateway(
            llm_base_url=upstream.url(behaviour), otel_exporter_otlp_endpoint=endpoint
        )
        token, info = scheduler.grant()
        await post(gateway, token, model="m", max_tokens=50)
        span = await asyncio.wait_for(collector.spans.get(), 60)
        values = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
        assert (span.name, span.kind) == ("chat m", 3)
        assert span.end_time_unix_nano >= span.start_time_unix_nano
        assert values["gen_ai.operation.name"] == "chat"
        assert values["gen_ai.provider.name"] == "openai"
        assert values["gen_ai.request.model"] == "m"
        assert values["gen_ai.request.max_tokens"] == 50
        assert values["wfhub.attempt.id"] == info.attempt_id
        assert "hello there" not in str(span)
        if behaviour == "ok":
            assert values["gen_ai.response.model"] == "double"
            assert values["gen_ai.usage.input_tokens"] == 7
            assert values["gen_ai.usage.output_tokens"] == 5
            assert span.status.code == 0
        else:
            assert values["error.type"] == "upstream-error"
            assert span.status.code == 2
