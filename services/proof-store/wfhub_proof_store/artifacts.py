"""SQL of artifacts: receipts given, receipts refused.

Every write may be repeated (a message is acknowledged after its commit): the first one stands.
"""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from wfhub_common.messages import Receipt, Receipts


async def record(connection: AsyncConnection, receipts: Sequence[Receipt]) -> None:
    # Sorted: who records some of the same at the same time waits, and never in a circle.
    ordered = sorted(receipts, key=lambda of: (of.attempt_id, of.name, of.sender, of.digest))
    await connection.execute(
        text("""
            INSERT INTO proofs.artifact
                   (attempt_id, name, digest, size, media_type, sender, receipt)
            SELECT attempt_id, name, digest, size, media_type, sender, CAST(receipt AS jsonb)
              FROM unnest(CAST(:attempt_ids AS text[]), CAST(:names AS text[]),
                          CAST(:digests AS text[]), CAST(:sizes AS bigint[]),
                          CAST(:media_types AS text[]), CAST(:senders AS text[]),
                          CAST(:receipts AS text[]))
                   WITH ORDINALITY
                   AS n (attempt_id, name, digest, size, media_type, sender, receipt, nr)
             ORDER BY nr
            ON CONFLICT (attempt_id, name, sender, digest) DO NOTHING
        """),
        {
            "attempt_ids": [each.attempt_id for each in ordered],
            "names": [each.name for each in ordered],
            "digests": [each.digest for each in ordered],
            "sizes": [each.size for each in ordered],
            "media_types": [each.media_type for each in ordered],
            "senders": [each.sender for each in ordered],
            "receipts": [each.model_dump_json() for each in ordered],
        },
    )


async def refuse(
    connection: AsyncConnection, *, attempt_id: str, name: str, sender: str, reason: str
) -> None:
    await connection.execute(
        text("""
            INSERT INTO proofs.refusal (attempt_id, name, sender, reason)
            VALUES (:attempt_id, :name, :sender, :reason)
            ON CONFLICT (attempt_id, name, sender) DO NOTHING
        """),
        {"attempt_id": attempt_id, "name": name, "sender": sender, "reason": reason},
    )


async def settled(
    connection: AsyncConnection, *, attempt_id: str, sender: str, names: Sequence[str]
) -> Receipts:
    """What is decided about these names by now. A name announced twice has its newest receipt; a
    receipt outweighs a refusal."""
    wanted = {"attempt_id": attempt_id, "sender": sender, "names": list(names)}
    given = await connection.execute(
        text("""
            SELECT DISTINCT ON (name) CAST(receipt AS text) FROM proofs.artifact
             WHERE attempt_id = :attempt_id AND sender = :sender AND name = ANY(:names)
             ORDER BY name, artifact_no DESC
        """),
        wanted,
    )
    receipts = tuple(Receipt.model_validate_json(row) for row in given.scalars())
    refused = await connection.execute(
        text("""
            SELECT name, reason FROM proofs.refusal
             WHERE attempt_id = :attempt_id AND sender = :sender AND name = ANY(:names)
        """),
        wanted,
    )
    have = {each.name for each in receipts}
    return Receipts(
        receipts=receipts,
        refused={name: reason for name, reason in refused.tuples() if name not in have},
    )
