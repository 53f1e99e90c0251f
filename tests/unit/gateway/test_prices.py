"""The price table."""

from datetime import date

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from wfhub_llm_gateway.budgets import prices
from wfhub_llm_gateway.budgets.prices import Price, PricesError
from wfhub_llm_gateway.budgets.pricing import Pricing


def table(tmp_path, text):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    return prices.load(path)


def test_our_own_table_is_readable_and_counts_in_nano_usd():
    ours = prices.load()
    assert ours.of("gpt-4o-mini") == Price(150, 600, 75, 150)
    assert ours.of("claude-sonnet-4-5-20250929") == Price(3000, 15000, 300, 3750)
    assert ours.of("my-own-model") is None


def test_each_of_our_prices_says_where_it_was_read_or_that_nobody_confirmed_it():
    value = yaml.safe_load(prices.OURS.read_text())
    figures = {"input", "output", "cached_input", "cache_write", "above"}
    for name, price in value["models"].items():
        given = {key for key in price if key in figures and price[key]}
        assert "source" in price or given == set(price["unconfirmed"]), name
        assert set(price.get("unconfirmed", ())) <= given, name
    for name, source in value["sources"].items():
        assert source["url"].startswith("https://"), name
        assert isinstance(source["read"], date), name


def test_the_operators_file_counts_before_ours_and_an_exact_name_before_a_pattern(tmp_path):
    own = table(
        tmp_path,
        'models:\n  "*": {input: 9, output: 9}\n  "gpt-*": {input: 1, output: 2}\n'
        "  gpt-5: {input: 0, output: 0.001}\n",
    )
    assert own.of("gpt-5") == Price(0, 1, 0, 0)
    assert own.of("gpt-4o") == Price(1000, 2000, 1000, 1000)
    assert own.of("claude-sonnet-4-5") == Price(9000, 9000, 9000, 9000)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("models: [", "prices.yaml"),
        ("prices: {}", "`models`"),
        ("models: {m: 3}", "models.m"),
        ("models: {m: {input: 1}}", "models.m"),
        ("models: {m: {input: 1, output: -1}}", "models.m.output"),
        ("models: {m: {input: 1, output: true}}", "models.m.output"),
        ("models: {m: {input: 0.0001, output: 1}}", "models.m.input"),
        ("models: {m: {input: .inf, output: 1}}", "models.m.input"),
        ("models: {m: {input: 1, output: 1, per: 1}}", "per"),
        ("models: {m: {input: 1, output: 1, source: hearsay}}", "models.m.source"),
        ("models: {m: {input: 1, output: 1, above: 3}}", "models.m.above"),
        ("models: {m: {input: 1, output: 1, above: {x: {input: 1, output: 1}}}}", "models.m.above"),
        ("models: {m: {input: 1, output: 1, above: {5: {input: 1}}}}", "models.m.above.5"),
        (
            "models: {m: {input: 1, output: 1, above: {5: {input: 1, output: 1, above: {}}}}}",
            "models.m.above.5",
        ),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_key_that_is_wrong(tmp_path, text, named):
    with pytest.raises(PricesError, match=r"prices\.yaml") as caught:
        table(tmp_path, text)
    assert named in str(caught.value)


def test_the_highest_price_of_those_who_may_answer_is_reserved_and_unknown_is_not_free(tmp_path):
    own = table(
        tmp_path, "models: {a: {input: 1, output: 5}, b: {input: 2, output: 4, cached_input: 3}}"
    )
    pricing = Pricing(own, free=("home",))
    assert pricing.highest([("x", "a"), ("y", "b")], 10) == Price(2000, 5000, 3000, 2000)
    assert pricing.highest([("x", "a"), ("y", "c")], 10) is None
    assert pricing.highest([("home", "c")], 10) == prices.FREE


LONG = """models:
  m:
    input: 1
    output: 10
    cached_input: 0.1
    above:
      1000: {input: 2, output: 15, cached_input: 0.2}
      5000: {input: 4, output: 20}
"""


def test_a_long_prompt_costs_its_price_for_all_of_the_request_as_it_was_counted(tmp_path):
    price = table(tmp_path, LONG).of("m")
    assert price.cost(1000, 10, 0, 0) == 1000 * 1000 + 10 * 10_000  # not above it
    assert price.cost(1001, 10, 0, 0) == 1001 * 2000 + 10 * 15_000
    assert price.cost(1001, 10, 1000, 0) == 1000 * 200 + 2000 + 10 * 15_000
    assert price.cost(6000, 1, 6000, 0) == 6000 * 4000 + 20_000


def test_a_prompt_that_may_be_a_long_one_is_reserved_as_one(tmp_path):
    """Its estimate may be a quarter too low; and all of its answer is reserved by that price."""
    pricing = Pricing(table(tmp_path, LONG))
    assert pricing.highest([("x", "m")], 750) == Price(1000, 10_000, 100, 1000)
    assert pricing.highest([("x", "m")], 751) == Price(2000, 15_000, 200, 2000)
    assert pricing.highest([("x", "m")], 3751) == Price(4000, 20_000, 4000, 4000)


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_what_was_reserved_suffices_while_the_estimate_is_no_quarter_too_low(counted, answer, part):
    price = Price(2, 10, 1, 3, ((5000, Price(5, 30, 2, 6)), (1000, Price(3, 15, 1, 4))))
    reserved = price.of_estimate(-(-counted * 3 // 4) + 1).reserve(counted, answer)
    assert price.cost(counted, answer, part, counted // 3) <= reserved


def test_our_own_prices_of_long_prompts_are_higher_than_those_of_short_ones():
    longs = [p for p in prices.load().tables[0].values() if p.above]
    assert longs
    for price in longs:
        assert all(p.input > price.input and p.output >= price.output for _, p in price.above)
