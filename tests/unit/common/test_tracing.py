"""Traces without a collector: what is passed on, and what is not begun."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
import structlog
from wfhub_common import log, metrics, tracing
from wfhub_common.grouping import Grouped
from wfhub_common.tracing_http import Traced

ONE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.mark.parametrize("header", [ONE, OTHER, ONE.replace("00-", "cc-", 1) + "-more"])
def test_a_traceparent_is_passed_on_in_our_version(header: str) -> None:
    assert tracing.parsed(header) == "00" + header[2:55]


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "nonsense", ONE.upper(), ONE[:-1], ONE + "-more", "ff" + ONE[2:]),
        *(f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{'a' * 32}-{'0' * 16}-01", ONE + "\n"),
    ],
)
def test_what_is_no_traceparent_is_dropped(header: str | None) -> None:
    assert tracing.parsed(header) == ""


async def test_requests_of_a_group_keep_their_own_traces_and_the_group_has_none() -> None:
    seen: list[str] = []
    begun, go = asyncio.Event(), asyncio.Event()

    async def work(items: Sequence[str]) -> Sequence[str]:
        seen.append(tracing.current())
        begun.set()
        await go.wait()
        return items

    grouped: Grouped[str, str] = Grouped(work, max_items=10)

    async def ask(traceparent: str) -> str:
        with tracing.within(traceparent):
            answer = await grouped(traceparent)
            assert tracing.current() == traceparent
            return answer

    first = asyncio.create_task(ask(ONE))
    await begun.wait()
    others = [asyncio.create_task(ask(each)) for each in (OTHER, "")]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(first, *others) == [ONE, OTHER, ""]
    assert seen == ["", ""]


async def test_a_request_without_a_trace_is_in_none_even_behind_one_with() -> None:
    seen: list[str] = []

    async def app(_scope: object, _receive: object, _send: object) -> None:
        seen.append(tracing.current())

    traced = Traced(app)
    scope = {"type": "http", "method": "GET", "headers": [(b"traceparent", ONE.encode())]}
    await traced(scope, None, None)
    with tracing.within(OTHER):  # as a server may read it on a connection that was used before
        await traced({**scope, "headers": []}, None, None)
    assert seen == [ONE, ""]


def test_a_log_line_names_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    log.configure("test")
    try:
        with tracing.within(ONE):
            log.get_logger("here").warning("inside")
        log.get_logger("here").warning("outside")
    finally:
        structlog.configure(**before)
        structlog.contextvars.clear_contextvars()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("trace_id") for line in lines] == [tracing.trace_id(ONE), None]


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    script = (
        "import sys\n"
        "import wfhub_api.app, wfhub_scheduler.main, wfhub_agent_runner.main\n"
        "import wfhub_proof_store.main, wfhub_llm_gateway.main\n"
        "from wfhub_common import tracing\n"
        "assert tracing.set_up('api', '') is None\n"
        f"with tracing.within('{ONE}'), tracing.span('work', task_id='tsk_1') as span:\n"
        "    span.note(more=1); span.name('other'); span.failed('badly')\n"
        f"    assert tracing.headers() == {{'traceparent': '{ONE}'}}\n"
        "assert tracing.headers() is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')\n"
        "       or name.startswith('opentelemetry.exporter')])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_words_of_others_fill_a_label_up_to_a_limit() -> None:
    bounded = metrics.Bounded()
    assert bounded("") == ""
    assert bounded("publish-conflict") == "publish-conflict"
    assert bounded("limit:memory") == "limit:memory"
    assert bounded("Anything at all, at length") == metrics.OTHER
    values = {bounded(f"reason-{n}") for n in range(1000)}
    assert metrics.OTHER in values
    assert len(values) <= metrics.VALUES_MAX
    assert bounded("publish-conflict") == "publish-conflict"


async def test_figures_that_cannot_be_looked_up_do_not_take_the_others_along() -> None:
    counts = metrics.Metrics("wfhub_test_")
    counts.counter("things", "Things.").inc()

    async def away() -> None:
        raise ConnectionRefusedError

    counts.look_up(away)
    await counts.refresh()
    await counts.refresh()  # not asked again so soon
    text = counts.text().decode()
    assert "wfhub_test_things_total 1.0" in text
    assert "wfhub_test_lookup_failures_total 1.0" in text
