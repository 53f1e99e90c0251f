"""The price table."""

from datetime import date

import pytest
import yaml
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
    figures = {"input", "output", "cached_input", "cache_write"}
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
    assert pricing.highest([("x", "a"), ("y", "b")]) == Price(2000, 5000, 3000, 2000)
    assert pricing.highest([("x", "a"), ("y", "c")]) is None
    assert pricing.highest([("home", "c")]) == prices.FREE
