"""Test support: exchanges linked as a gateway links them."""

from wfhub_common import digests, exchange_chain
from wfhub_common.messages import Exchanges


def chained(exchanges: Exchanges) -> Exchanges:
    """In the order in which they stand."""
    end, made = "", []
    for link, exchange in enumerate(exchanges.exchanges, start=1):
        record = exchange_chain.record(exchanges.attempt_id, exchange.model_dump())
        digest = digests.of_bytes(record)
        end = exchange_chain.linked(end, digest)
        made.append(exchange.model_copy(update={"link": link, "record_digest": digest}))
    return exchanges.model_copy(update={"exchanges": tuple(made), "chain_digest": end})
