"""SQL of artifacts: receipts given, receipts refused.

Every write may be repeated (a message is acknowledged after its commit): the first one stands.
What a runner announces of one attempt is bounded, receipts and refusals each, so that one that goes
on announcing fills no table; counted without a lock: a few may slip in beyond it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from wfhub_common.limits import ARTIFACTS_MAX
from wfhub_common.messages import Receipt, Receipts
from wfhub_common.sql import Connection

ANNOUNCED_MAX = 2 * ARTIFACTS_MAX  # of an attempt: what it hands in, and what it announced anew

_RECORD = text("""
INSERT INTO proofs.artifact
       (attempt_id, name, digest, size, media_type, sender, receipt)
SELECT attempt_id, name, digest, size, media_type, sender, CAST(receipt AS jsonb)
  FROM (SELECT *, row_number() OVER (PARTITION BY attempt_id, sender ORDER BY nr) AS further
          FROM unnest(CAST(:attempt_ids AS text[]), CAST(:names AS text[]),
                      CAST(:digests AS text[]), CAST(:sizes AS bigint[]),
                      CAST(:media_types AS text[]), CAST(:senders AS text[]),
                      CAST(:receipts AS text[]))
               WITH ORDINALITY
               AS given (attempt_id, name, digest, size, media_type, sender, receipt, nr)) n
 WHERE further + (SELECT count(*) FROM proofs.artifact a
                   WHERE a.attempt_id = n.attempt_id AND a.sender = n.sender) <= :most
 ORDER BY nr
ON CONFLICT (attempt_id, name, sender, digest) DO NOTHING
""")
_MISSING = text("""
SELECT nr FROM unnest(CAST(:attempt_ids AS text[]), CAST(:names AS text[]),
                      CAST(:senders AS text[]), CAST(:digests AS text[]))
               WITH ORDINALITY AS n (attempt_id, name, sender, digest, nr)
 WHERE NOT EXISTS (SELECT FROM proofs.artifact a
                    WHERE a.attempt_id = n.attempt_id AND a.name = n.name
                      AND a.sender = n.sender AND a.digest = n.digest)
""")
_REFUSE = text("""
INSERT INTO proofs.refusal (attempt_id, name, sender, reason)
SELECT CAST(:attempt_id AS text), CAST(:name AS text), CAST(:sender AS text), CAST(:reason AS text)
 WHERE :most > (SELECT count(*) FROM proofs.refusal
                 WHERE attempt_id = :attempt_id AND sender = :sender)
ON CONFLICT (attempt_id, name, sender) DO NOTHING
""")
_SETTLED = text("""
SELECT nr, name, receipt, reason
  FROM unnest(CAST(:nrs AS int[]), CAST(:attempt_ids AS text[]),
              CAST(:senders AS text[]), CAST(:names AS text[]))
       AS wanted (nr, attempt_id, sender, name)
  LEFT JOIN LATERAL (
       SELECT CAST(receipt AS text) FROM proofs.artifact AS given
        WHERE given.attempt_id = wanted.attempt_id AND given.sender = wanted.sender
          AND given.name = wanted.name
        ORDER BY artifact_no DESC LIMIT 1) AS given (receipt) ON true
  LEFT JOIN proofs.refusal USING (attempt_id, name, sender)
 WHERE receipt IS NOT NULL OR reason IS NOT NULL
""")


async def record(connection: Connection, receipts: Sequence[Receipt]) -> list[bool]:
    """Whether each is there now; the others are too many."""
    # Sorted: who records some of the same at the same time waits, and never in a circle.
    ordered = sorted(receipts, key=lambda of: (of.attempt_id, of.name, of.sender, of.digest))
    named = {
        "attempt_ids": [each.attempt_id for each in ordered],
        "names": [each.name for each in ordered],
        "senders": [each.sender for each in ordered],
        "digests": [each.digest for each in ordered],
    }
    values = {
        "sizes": [each.size for each in ordered],
        "media_types": [each.media_type for each in ordered],
        "receipts": [each.model_dump_json() for each in ordered],
    }
    added = await connection.execute(_RECORD, {**named, **values, "most": ANNOUNCED_MAX})
    if added.rowcount == len(ordered):
        return [True] * len(receipts)
    numbers = (await connection.execute(_MISSING, named)).scalars()
    missing = {id(ordered[number - 1]) for number in numbers}
    return [id(each) not in missing for each in receipts]


async def refuse(
    connection: Connection, *, attempt_id: str, name: str, sender: str, reason: str
) -> None:
    await connection.execute(
        _REFUSE,
        {
            "attempt_id": attempt_id,
            "name": name,
            "sender": sender,
            "reason": reason,
            "most": ANNOUNCED_MAX,
        },
    )


@dataclass(frozen=True)
class Wanted:
    """What one sender wants to know of an attempt."""

    attempt_id: str
    sender: str
    names: tuple[str, ...]


async def settled(connection: Connection, wanted: Sequence[Wanted]) -> list[Receipts]:
    """What is decided about these names by now, for each of `wanted`. A name announced twice has
    its newest receipt; a receipt outweighs a refusal."""
    flat = [(nr, of, name) for nr, of in enumerate(wanted) for name in of.names]
    rows = await connection.execute(
        _SETTLED,
        {
            "nrs": [nr for nr, _, _ in flat],
            "attempt_ids": [of.attempt_id for _, of, _ in flat],
            "senders": [of.sender for _, of, _ in flat],
            "names": [name for _, _, name in flat],
        },
    )
    receipts: list[dict[str, Receipt]] = [{} for _ in wanted]
    refused: list[dict[str, str]] = [{} for _ in wanted]
    for row in rows:
        if row.receipt is not None:
            receipts[row.nr][row.name] = Receipt.model_validate_json(row.receipt)
        else:
            refused[row.nr][row.name] = row.reason
    return [
        Receipts(receipts=tuple(found[name] for name in sorted(found)), refused=refused[nr])
        for nr, found in enumerate(receipts)
    ]
