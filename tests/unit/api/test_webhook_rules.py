"""What webhooks decide without I/O: patterns, retries, gaps, and where may be sent to."""

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from wfhub_api.positions import START, Position
from wfhub_api.settings import ApiSettings
from wfhub_api.webhooks import patterns, retries, targets
from wfhub_api.webhooks.gaps import gap
from wfhub_api.webhooks.targets import Rules
from wfhub_common.errors import Rejected

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RULES = Rules(frozenset({"10.0.0.1", "localhost"}), frozenset({"plain.example", "localhost"}))


@pytest.mark.parametrize(
    ("type_", "pattern", "matches"),
    [
        ("task.state_changed", "*", True),
        ("task.state_changed", "task.*", True),
        ("task.state_changed", "task.state_changed", True),
        ("task.state_changed", "task.state", False),
        ("tasks.made", "task.*", False),
        ("task", "task.*", False),
        ("proof.sealed", "task.*", False),
        ("a.b.c", "a.b.*", True),
    ],
)
def test_a_pattern_is_a_type_or_how_it_begins(type_: str, pattern: str, matches: bool) -> None:
    assert patterns.wanted(type_, ["never.this", pattern]) is matches


@pytest.mark.parametrize("bad", ["", "task.", ".*", "task*", "*.x", "Task.*", "a b", "task.*\n"])
def test_a_pattern_that_is_none_is_refused(bad: str) -> None:
    assert re.fullmatch(patterns.PATTERN, bad) is None


def test_the_wait_doubles_up_to_its_cap_with_jitter() -> None:
    waits = [retries.delay_s(n, base_s=1, jitter=1) for n in range(1, 30)]
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == retries.RETRY_S_MAX
    assert retries.delay_s(4, base_s=1, jitter=0) == 4
    assert retries.delay_s(10**6, base_s=1, jitter=1) == retries.RETRY_S_MAX


def test_what_the_receiver_asks_for_is_waited_within_bounds() -> None:
    def wait(asked: float | None) -> float:
        return retries.delay_s(3, base_s=1, jitter=1, retry_after_s=asked)

    assert [wait(None), wait(0), wait(100)] == [4, 4, 100]
    assert wait(1e12) == retries.RETRY_AFTER_S_MAX


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        (format_datetime(NOW + timedelta(minutes=1), usegmt=True), 60),
        (format_datetime(NOW - timedelta(minutes=1), usegmt=True), 0),
        (None, None),
        ("soon", None),
        ("-1", None),
        ("1e9", None),
        ("٣", None),
        ("9" * 5000, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retries.retry_after_s(value, NOW) == seconds


def test_gone_and_days_of_failures_disable() -> None:
    week_s = 7 * 24 * 3600
    assert retries.disabling(retries.Refused(500), failing_s=60) is None
    assert "410" in (retries.disabling(retries.Refused(410), failing_s=0) or "")
    assert "7 days" in (retries.disabling(retries.Refused(500), failing_s=week_s) or "")


def test_a_gap_is_what_lies_between_positions_that_should_follow() -> None:
    assert gap(Position(1, 4), Position(1, 5)) is None
    assert gap(START, Position(3, 700)) is None
    assert "4 events after 1-4 were gone" in (gap(Position(1, 4), Position(1, 9)) or "")
    assert "generation 2" in (gap(Position(1, 4), Position(2, 1)) or "")
    assert "first 5 events are gone" in (gap(Position(1, 4), Position(2, 6)) or "")


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/in?x=1",
        "https://hooks.example:8443/",
        "https://10.0.0.1/",
        "https://93.184.215.14/",
        "http://plain.example/",
    ],
)
def test_a_url_that_may_be_sent_to(url: str) -> None:
    assert targets.parse(url, RULES).url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "ftp://hooks.example/",
        "https://",
        "https:///path",
        "https://user@hooks.example/",
        "https://user:pw@hooks.example/",
        "https://hooks.example/#part",
        "https://hooks.example:99999/",
        "https://hooks.example:x/",
        "https://hooks.example\\@other.example/",
        "https://hooks.exa\x00mple/",
        "https://hooks.example/ x",
        "https://h\u00f6oks.example/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://[::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.2/",
        "https://0.0.0.0/",
        "https://*.example/",
        "https://hooks.example/" + "x" * 2048,
        "HTTPS://hooks.example/",
    ],
)
def test_a_url_that_nothing_is_sent_to(url: str) -> None:
    with pytest.raises(Rejected) as refused:
        targets.parse(url, RULES)
    assert refused.value.code == "url-forbidden"


async def test_a_name_that_leads_inside_is_not_connected_to() -> None:
    with ThreadPoolExecutor(1) as threads:
        named = targets.parse("http://localhost/", RULES)
        assert set(await targets.resolve(named, RULES, threads)) <= {"127.0.0.1", "::1"}
        unnamed = Rules(http_hosts=RULES.http_hosts)
        with pytest.raises(targets.Forbidden, match="WEBHOOK_PRIVATE_HOSTS"):
            await targets.resolve(named, unnamed, threads)


async def test_metadata_is_not_reached_even_by_a_host_that_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [(2, 1, 6, "", ("93.184.215.14", 443)), (2, 1, 6, "", ("169.254.169.254", 443))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    rules = Rules(private_hosts=frozenset({"hooks.example"}))
    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(targets.Forbidden, match="metadata"):
            await targets.resolve(targets.parse("https://hooks.example/", rules), rules, threads)
        await asyncio.sleep(0)


def test_settings_that_cannot_be_are_named_at_the_start() -> None:
    for name, value in (
        ("WEBHOOK_PRIVATE_HOSTS", "*.example"),
        ("WEBHOOK_HTTP_HOSTS", "a.example:80"),
        ("WEBHOOK_TIMEOUT_S", "50"),
    ):
        with pytest.raises(SystemExit, match=name):
            ApiSettings.from_env({"DATABASE_URL": "postgresql://x", name: value})
