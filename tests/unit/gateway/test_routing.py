"""Rules of routing: the file, the order, the reasons, the waits, the breaker."""

import random
from collections import Counter
from datetime import UTC, datetime

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from wfhub_llm_gateway.routing import backoff, choice, config, reasons
from wfhub_llm_gateway.routing.breaker import CircuitBreaker
from wfhub_llm_gateway.routing.config import ConfigError, Deployment, Retries

GOOD = """
providers:
  openai: {kind: openai, api_key_env: OPENAI_API_KEY, concurrency: 64}
  home:   {base_url: "http://10.0.0.7:8000", free: true}
routes:
  coder:
    aliases: [gpt-5, default]
    deployments:
      - {provider: openai, model: gpt-5, weight: 3}
      - {provider: home, model: qwen3-coder}
    fallbacks: {rate-limited: [small], any: [long]}
    retries: {attempts_max: 5}
  small: {deployments: [{provider: home}]}
  long:  {deployments: [{provider: openai, model: gpt-4.1}], fallbacks: {failed: [coder]}}
"""


def changed(path: str, value: object) -> object:
    """GOOD with one thing in another place; a path as errors have it."""
    whole = at = yaml.safe_load(GOOD)
    *parents, last = path.split("/")
    for part in parents:
        at = at[int(part) if part.isdigit() else part]
    at[last] = value
    return whole


def test_a_model_is_found_by_name_and_by_alias_and_any_other_where_there_is_a_default():
    routes = config.parse(yaml.safe_load(GOOD))
    assert routes.find("gpt-5") == routes.find("coder") == ("coder", routes.routes["coder"])
    assert routes.find("other") is None
    assert routes.retries_of(routes.routes["coder"]).attempts_max == 5
    assert routes.retries_of(routes.routes["small"]).attempts_max == 3
    open_ = config.parse(changed("default_provider", "home"))
    name, route = open_.find("other")
    assert (name, route.deployments) == ("other", (Deployment(provider="home", model="other"),))


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("providers/openai/kind", "azure", "providers.openai.kind:"),
        ("providers/openai/concurrency", 0, "providers.openai.concurrency:"),
        ("providers/openai/api_key", "sk-1", "providers.openai.api_key:"),
        ("providers/openai/api_key_file", "/k", "providers.openai:"),
        ("providers/home/base_url", "10.0.0.7", "providers.home.base_url:"),
        ("routes/coder/deployments/1/provider", "away", "routes.coder.deployments[1].provider:"),
        ("routes/coder/deployments/0/weight", -1, "routes.coder.deployments[0].weight:"),
        ("routes/coder/deployments", [], "routes.coder.deployments:"),
        ("routes/coder/fallbacks/any", ["nowhere"], "routes.coder.fallbacks.any[0]:"),
        ("routes/coder/fallbacks/rate-limited", ["coder"], "routes.coder.fallbacks.rate-limited"),
        ("routes/coder/fallbacks/bored", ["small"], "routes.coder.fallbacks.bored"),
        ("routes/coder/aliases", ["small"], "routes.coder.aliases[0]:"),
        ("routes/small/aliases", ["gpt-5"], "routes.small.aliases[0]:"),
        ("retries", {"attempts_max": 99}, "retries.attempts_max:"),
        ("default_provider", "away", "default_provider:"),
        ("rotes", {}, "rotes:"),
        ("providers", {}, "providers:"),
    ],
)
def test_a_mistake_is_named_by_its_path(path, value, named):
    with pytest.raises(ConfigError) as caught:
        config.parse(changed(path, value))
    assert str(caught.value).startswith(named)
    assert "sk-1" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "providers: [", "a: 1\na: 2", "a: &a [*a]", "\ud800", "? {a: 1}\n: 1"]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "routes.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(ConfigError):
        config.load(path)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(0, 2**32))
def test_every_deployment_is_in_the_order_once_and_those_without_weight_are_last(weights, seed):
    given_ = [Deployment(provider=f"p{n}", weight=w) for n, w in enumerate(weights)]
    order = choice.in_order(given_, random.Random(seed).random)
    assert Counter(d.provider for d in order) == Counter(d.provider for d in given_)
    assert [d.weight == 0 for d in order] == sorted(d.weight == 0 for d in order)


def test_the_first_is_drawn_by_weight():
    given_ = [Deployment(provider="a", weight=3), Deployment(provider="b", weight=1)]
    draw = random.Random(7).random
    firsts = Counter(choice.in_order(given_, draw)[0].provider for _ in range(4000))
    assert 0.72 < firsts["a"] / 4000 < 0.78


def test_what_a_route_may_fall_back_to_is_found_once_whatever_leads_in_a_circle():
    routes = config.parse(yaml.safe_load(GOOD))
    found = choice.reachable(routes, "coder", routes.routes["coder"])
    assert [name for name, _ in found] == ["coder", "small", "long"]
    assert list(choice.fallbacks(routes.routes["coder"], "rate-limited")) == ["small", "long"]
    assert list(choice.fallbacks(routes.routes["coder"], "timeout")) == ["long"]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"", None),
        (400, b'{"error": {"message": "bad tool"}}', None),
        (400, b'{"error": {"code": "context_length_exceeded"}}', "context-length"),
        (400, b"the request exceeds the available context size", "context-length"),
        (400, b'{"error": {"message": "prompt is too long: 9 tokens > 5"}}', "context-length"),
        (413, b"The input token count (9) exceeds the maximum", "context-length"),
        (413, b"too large", None),
        (404, b"", "model-missing"),
        (429, b"", "rate-limited"),
        (503, b"", "failed"),
        (529, b"overloaded", "failed"),
    ],
)
def test_reasons_are_told_from_status_and_words(status, body, reason):
    assert reasons.of_answer(status, body) == reason


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("1e400", None),
        ("٣", None),
        ("", None),
    ],
)
def test_retry_after_is_read_in_both_its_forms(value, seconds):
    assert backoff.retry_after_s(value, NOW) == seconds


@given(
    st.builds(Retries, backoff_ms=st.integers(0, 60_000), backoff_max_ms=st.integers(0, 600_000)),
    st.integers(0, 10_000),
    st.none() | st.floats(0, 10_000),
    st.floats(0, 1),
)
def test_a_wait_is_never_shorter_than_asked_for_nor_longer_than_allowed(retries, turn, asked, luck):
    wait = backoff.wait_s(retries, turn, asked, luck)
    longest = retries.backoff_max_ms / 1000
    if wait is None:
        assert asked is not None
        assert asked > longest
    else:
        assert (asked or 0.0) <= wait <= longest


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_try_at_a_time():
    breaker = CircuitBreaker(failures_max=2, open_s=10)
    breaker.failed(0)
    breaker.answered()
    breaker.failed(1)
    assert breaker.allows(1)
    breaker.failed(2)
    assert not breaker.allows(11.9)
    assert breaker.allows(12)
    breaker.asked(12)
    assert not breaker.allows(13)
    breaker.failed(14)
    assert not breaker.allows(23.9)
    breaker.asked(24)
    breaker.answered()
    assert breaker.allows(24)


@given(st.lists(st.tuples(st.sampled_from(["ask", "ok", "fail"]), st.floats(0, 100)), max_size=40))
def test_no_breaker_stays_open_for_good(steps):
    breaker, now = CircuitBreaker(failures_max=3, open_s=5), 0.0
    for what, passed in steps:
        now += passed
        if what == "ask" and breaker.allows(now):
            breaker.asked(now)
        elif what == "ok":
            breaker.answered()
        elif what == "fail":
            breaker.failed(now)
    assert breaker.allows(now + 10)
