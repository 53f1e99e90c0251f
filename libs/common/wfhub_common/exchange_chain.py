"""The chain of an attempt's exchanges with models: the gateway links, anybody checks. Pure.

Each exchange has a record, the canonical JSON of RECORD_FIELDS and of its attempt; its digest is
`record_digest`, and the record is stored under it. In the order in which they were settled (`link`,
from 1), each link covers the record of its exchange and the link before; the last one is known:

    chain(n) = SHA-256 of "<chain(n-1)> <record(n)>", both as `sha256:…`; chain(0) is ""

An exchange without a link was never settled, or is older than the chain.
Raises: Corrupt (`exchange-chain`).
"""

from typing import Any

from wfhub_common import digests
from wfhub_common.errors import Corrupt
from wfhub_common.messages import Exchange, Exchanges

# Of version 1, for good: a field that is added to Exchange is not covered by this version.
RECORD_FIELDS = (
    *("seq", "provider", "model", "replayed", "status", "request_digest", "response_digest"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "nusd"),
    *("started_at", "first_byte_ms", "duration_ms", "note"),
)


def record(attempt_id: str, fields: dict[str, Any]) -> bytes:
    """Of an exchange's fields; others than RECORD_FIELDS are left out."""
    value = {name: fields[name] for name in RECORD_FIELDS}
    return digests.canonical_json({"v": 1, "attempt_id": attempt_id, **value})


def linked(before: str, record_digest: str) -> str:
    return digests.of_bytes(f"{before} {record_digest}".encode())


def check(exchanges: Exchanges) -> int:
    """How many are in the chain."""
    chained = sorted((e for e in exchanges.exchanges if e.link), key=lambda e: e.link)
    before = ""
    for number, exchange in enumerate(chained, start=1):
        if exchange.link != number:
            raise _broken(exchange, f"link {number} of the chain is missing")
        found = digests.of_bytes(record(exchanges.attempt_id, exchange.model_dump()))
        if found != exchange.record_digest:
            raise _broken(exchange, "its fields are not those of its record")
        before = linked(before, found)
    if exchanges.chain_digest != before:
        raise Corrupt(
            "exchange-chain",
            f"the chain of exchanges ends in {exchanges.chain_digest or 'nothing'}, its"
            f" {len(chained)} exchanges in {before or 'nothing'}",
        )
    return len(chained)


def _broken(exchange: Exchange, why: str) -> Corrupt:
    return Corrupt("exchange-chain", f"exchange {exchange.seq}: {why}", seq=exchange.seq)
