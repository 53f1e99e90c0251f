"""The chain of an attempt's exchanges."""

import random

import pytest
from wfhub_common import digests, exchange_chain
from wfhub_common.errors import Corrupt
from wfhub_common.messages import Exchange, Exchanges

ATTEMPT = "att_" + "a" * 24


def chain(count: int = 4) -> Exchanges:
    """Settled in another order than they were opened."""
    order = list(range(1, count + 1))
    random.Random(1).shuffle(order)
    before, made = "", []
    for link, seq in enumerate(order, start=1):
        exchange = Exchange(
            seq=seq,
            provider="openai",
            model="m",
            replayed=False,
            status=200,
            request_digest=digests.of_bytes(b"ask %d" % seq),
            response_digest=digests.of_bytes(b"answer %d" % seq),
            prompt_tokens=seq,
            completion_tokens=1,
            started_at="2026-01-01T00:00:00.000Z",
            duration_ms=5,
            link=link,
        )
        record = digests.of_bytes(exchange_chain.record(ATTEMPT, exchange.model_dump()))
        before = exchange_chain.linked(before, record)
        made.append(exchange.model_copy(update={"record_digest": record}))
    made.sort(key=lambda exchange: exchange.seq)
    return Exchanges(attempt_id=ATTEMPT, exchanges=tuple(made), chain_digest=before)


def test_an_untouched_chain_holds_and_older_exchanges_are_in_none():
    assert exchange_chain.check(chain()) == 4
    assert exchange_chain.check(Exchanges(attempt_id=ATTEMPT)) == 0
    loose = tuple(e.model_copy(update={"link": 0}) for e in chain().exchanges)
    assert exchange_chain.check(Exchanges(attempt_id=ATTEMPT, exchanges=loose)) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"response_digest": digests.of_bytes(b"forged")},
        {"prompt_tokens": 99},
        {"note": "x"},
        {"nusd": 7},
        {"record_digest": digests.of_bytes(b"forged")},
        {"link": 0},
        {"link": 9},
    ],
)
def test_whatever_is_changed_in_one_exchange_breaks_the_chain(change):
    whole = chain()
    for n, exchange in enumerate(whole.exchanges):
        changed = list(whole.exchanges)
        changed[n] = exchange.model_copy(update=change)
        with pytest.raises(Corrupt, match="exchange-chain"):
            exchange_chain.check(whole.model_copy(update={"exchanges": tuple(changed)}))


def test_exchanges_in_another_order_end_elsewhere():
    whole = chain(2)
    first, second = whole.exchanges
    swapped = tuple(e.model_copy(update={"link": 3 - e.link}) for e in (first, second))
    with pytest.raises(Corrupt, match="ends in"):
        exchange_chain.check(whole.model_copy(update={"exchanges": swapped}))


def test_an_exchange_that_is_left_out_or_moved_to_another_attempt_is_missed():
    whole = chain()
    for n in range(len(whole.exchanges)):
        fewer = whole.exchanges[:n] + whole.exchanges[n + 1 :]
        with pytest.raises(Corrupt):
            exchange_chain.check(whole.model_copy(update={"exchanges": fewer}))
    with pytest.raises(Corrupt):
        exchange_chain.check(whole.model_copy(update={"attempt_id": "att_" + "b" * 24}))
