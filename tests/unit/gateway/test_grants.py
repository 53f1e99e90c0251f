"""What a request may reserve."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_common.messages import SpendingLimit
from wfhub_llm_gateway.budgets.grants import Account, Amount, Ask, Refused, grant
from wfhub_llm_gateway.budgets.prices import FREE, Price

counts = st.integers(0, 10**6)
limits = st.none() | st.integers(1, 10**6)
prices = st.builds(Price, *(st.integers(0, 5000),) * 4) | st.just(FREE)
accounts = st.builds(
    Account,
    st.builds(
        SpendingLimit,
        scope=st.sampled_from(["project", "day", "task", "attempt"]),
        tokens=limits,
        nusd=limits,
        requests=limits,
        wall_ms=limits,
    ),
    st.builds(Amount, counts, counts, counts, counts),
)
asks = st.builds(
    Ask,
    prompt=st.integers(0, 10_000),
    completion=st.integers(1, 10_000),
    wall_ms=st.integers(1, 100_000),
    requests=st.integers(0, 1),
    price=prices,
)


@given(st.lists(accounts, max_size=5), asks)
def test_a_grant_passes_no_limit_and_a_refusal_names_one_that_it_would(several, ask):
    try:
        given_ = grant(several, ask)
    except Refused as refused:
        account = next(a for a in several if a.limit is refused.limit)
        least = Ask(
            ask.prompt, ask.completion_min, ask.wall_ms_min, requests=ask.requests, price=ask.price
        )
        assert any(passed(account, grant((), least).amount))
        return
    assert ask.completion_min <= given_.completion <= ask.completion
    assert given_.nusd == ask.price.reserve(ask.prompt, given_.completion)
    for account in several:
        assert not any(passed(account, given_.amount))


def passed(account: Account, amount: Amount) -> list[bool]:
    after, limit = account.taken + amount, account.limit
    return [
        limit.tokens is not None and after.tokens > limit.tokens,
        limit.nusd is not None and after.nusd > limit.nusd,
        limit.wall_ms is not None and after.wall_ms > limit.wall_ms,
        limit.requests is not None and after.requests > limit.requests,
    ]


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), prices)
def test_nothing_costs_more_than_was_reserved_for_it(prompt, completion, cached, price):
    if price.cached_input <= price.input:
        cost = price.cost(prompt, completion, cached, prompt // 3)
        assert 0 <= cost <= price.reserve(prompt, completion)


def test_a_rate_refuses_what_would_begin_and_nothing_that_runs():
    rate = Account(SpendingLimit(scope="minute", tokens=10), Amount(tokens=10))
    with pytest.raises(Refused):
        grant([rate], Ask(prompt=1, completion=1, wall_ms=0))
    assert grant([rate], Ask(prompt=0, completion=5, wall_ms=0, more=True)).completion == 5


def test_what_costs_nothing_is_granted_when_nothing_is_left():
    spent = Account(SpendingLimit(scope="task", tokens=10, nusd=10), Amount(tokens=12, nusd=12))
    free = Ask(prompt=0, completion=0, wall_ms=0, completion_min=0)
    assert grant([spent], free).amount == Amount(requests=1)


def test_no_measure_is_refused_in_the_name_of_another():
    money = Account(SpendingLimit(scope="day", nusd=1000), Amount(nusd=900))
    with pytest.raises(Refused) as caught:
        grant([money], Ask(prompt=10, completion=10, wall_ms=0, price=Price(20, 1, 1, 1)))
    assert (caught.value.limit.scope, caught.value.measure, caught.value.left) == (
        "day",
        "usd",
        100,
    )
