"""The transparency log in Postgres: append a proof, export one, read the checkpoint.

The row of proofs.tree is locked while leaves are added, so indexes are dense and every checkpoint
ever signed is of a tree that was committed or never seen. An append reads O(log size) rows, however
many leaves it adds. A proof is looked up by attempt first: the same attempt has the same proof for
good.
Raises: Rejected (`proof-not-found`), Corrupt (`log-corrupt`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import checkpoints, db, digests, merkle, proofs, signing
from wfhub_common.errors import Corrupt, Rejected
from wfhub_common.merkle import Node
from wfhub_common.messages import Sealed
from wfhub_common.sql import Connection

_SEALED = text("""
SELECT attempt_id, proof_id, envelope_digest, leaf_index, tokens
  FROM proofs.proof JOIN proofs.leaf USING (proof_id)
 WHERE attempt_id = ANY(CAST(:attempt_ids AS text[]))
""")
_LOCK_TREE = text("SELECT origin, size, root, checkpoint FROM proofs.tree FOR UPDATE")
_GROWN = text("UPDATE proofs.tree SET size = :size, root = :root, checkpoint = :checkpoint")
_EXPORT = text("""
SELECT envelope, leaf_index FROM proofs.proof JOIN proofs.leaf USING (proof_id)
 WHERE proof_id = :proof_id
""")
_NODES = text("""
SELECT level, node_index, hash
  FROM proofs.node
  JOIN unnest(CAST(:levels AS smallint[]), CAST(:indexes AS bigint[]))
       AS wanted (level, node_index) USING (level, node_index)
""")
_INSERT_LEAVES = text("""
WITH new AS (
    SELECT * FROM unnest(CAST(:indexes AS bigint[]), CAST(:proof_ids AS text[]),
                         CAST(:attempt_ids AS text[]), CAST(:task_ids AS text[]),
                         CAST(:envelopes AS bytea[]), CAST(:digests AS text[]),
                         CAST(:tokens AS bigint[]))
        AS n (leaf_index, proof_id, attempt_id, task_id, envelope, digest, tokens)),
proof AS (
    INSERT INTO proofs.proof
           (proof_id, attempt_id, task_id, envelope, envelope_digest, tokens)
    SELECT proof_id, attempt_id, task_id, envelope, digest, tokens FROM new)
INSERT INTO proofs.leaf (leaf_index, proof_id) SELECT leaf_index, proof_id FROM new
""")
_INSERT_NODES = text("""
INSERT INTO proofs.node (level, node_index, hash)
SELECT * FROM unnest(CAST(:levels AS smallint[]), CAST(:indexes AS bigint[]),
                     CAST(:hashes AS bytea[]))
""")


@dataclass(frozen=True)
class NewProof:
    proof_id: str
    attempt_id: str
    task_id: str
    envelope: bytes  # canonical JSON: the leaf's data
    tokens: int


async def sealed(connection: Connection, attempt_ids: Sequence[str]) -> dict[str, Sealed]:
    """By attempt, as far as they have one."""
    rows = await connection.execute(
        _SEALED,
        {"attempt_ids": list(attempt_ids)},
    )
    return {row["attempt_id"]: Sealed.model_validate(dict(row)) for row in rows}


async def append(
    connection: Connection, new: Sequence[NewProof], key: signing.PrivateKey
) -> list[Sealed]:
    """A leaf for each, in their order, and one checkpoint behind them."""
    tree = (await connection.execute(_LOCK_TREE)).one()
    # Behind the lock: who asked for the same attempt before us has committed by now.
    known = await sealed(connection, [proof.attempt_id for proof in new])
    size, peaks = tree.size, await _peak_hashes(connection, tree.size, bytes(tree.root))
    root, nodes = bytes(tree.root), dict[Node, bytes]()
    leaves: list[tuple[int, NewProof]] = []
    for proof in new:
        if proof.attempt_id in known:  # in this very call too
            continue
        appended = merkle.append(size, peaks, merkle.leaf_hash(proof.envelope))
        nodes |= appended.nodes
        leaves.append((size, proof))
        known[proof.attempt_id] = Sealed(
            proof_id=proof.proof_id,
            envelope_digest=digests.of_bytes(proof.envelope),
            leaf_index=size,
            tokens=proof.tokens,
        )
        size, root = size + 1, appended.root
        peaks = _next_peaks(size, peaks, appended.nodes)
    if leaves:
        await _insert(connection, leaves, nodes=nodes)
        checkpoint = checkpoints.Checkpoint(tree.origin, size, root)
        await connection.execute(
            _GROWN,
            {"size": size, "root": root, "checkpoint": checkpoints.sign(checkpoint, key)},
        )
    return [known[proof.attempt_id] for proof in new]


def _next_peaks(size: int, hashes: Sequence[bytes], added: dict[Node, bytes]) -> list[bytes]:
    """Peak hashes of the tree that has grown to `size`: some are as before, the last is new."""
    peaks = merkle.peaks(size)
    return [*hashes[: len(peaks) - 1], added[peaks[-1]]]


async def export(
    engine: AsyncEngine, proof_id: str, public_key: signing.PublicKey
) -> proofs.Export:
    """The proof and its place in the newest tree."""
    async with db.transaction(engine) as connection:
        proof = (await connection.execute(_EXPORT, {"proof_id": proof_id})).one_or_none()
        if proof is None:
            raise Rejected("proof-not-found", f"there is no proof {proof_id}", status=404)
        # Read after the leaf, so it holds the leaf; nodes never change, so any snapshot does.
        tree = (await connection.execute(text("SELECT size, checkpoint FROM proofs.tree"))).one()
        wanted = merkle.path_nodes(proof.leaf_index, tree.size)
        nodes = await _nodes(connection, wanted)
    path = merkle.inclusion_proof(proof.leaf_index, tree.size, nodes)
    return proofs.Export(
        proof_id=proof_id,
        envelope=json.loads(proof.envelope),
        log=proofs.LogEntry(
            leaf_index=proof.leaf_index,
            tree_size=tree.size,
            inclusion_proof=[signing.to_base64(each) for each in path],
            checkpoint=tree.checkpoint,
        ),
        public_key_pem=signing.public_pem(public_key),
    )


async def ensure_checkpoint(engine: AsyncEngine, key: signing.PrivateKey) -> None:
    """Sign the current tree where its checkpoint is not by our key: a new log, or a new key.
    Raises: the driver's error when the schema was never migrated."""
    async with db.transaction(engine) as connection:
        tree = (await connection.execute(_LOCK_TREE)).one()
        now = checkpoints.Checkpoint(tree.origin, tree.size, bytes(tree.root))
        note = checkpoints.sign(now, key)
        if note != tree.checkpoint:
            await connection.execute(
                text("UPDATE proofs.tree SET checkpoint = :checkpoint"), {"checkpoint": note}
            )


async def checkpoint(engine: AsyncEngine) -> str:
    async with db.transaction(engine) as connection:
        found = await connection.execute(text("SELECT checkpoint FROM proofs.tree"))
        return str(found.scalar_one())


async def _peak_hashes(connection: Connection, size: int, root: bytes) -> list[bytes]:
    peaks = merkle.peaks(size)
    nodes = await _nodes(connection, peaks)
    hashes = [nodes[peak] for peak in peaks]
    if merkle.root_of(hashes) != root:
        raise Corrupt(
            "log-corrupt",
            f"the log's {size} leaves do not add up to its root: stop sealing and compare"
            " proofs.node and proofs.tree with a backup",
        )
    return hashes


async def _nodes(connection: Connection, wanted: list[Node]) -> dict[Node, bytes]:
    rows = await connection.execute(
        _NODES,
        {"levels": [n.level for n in wanted], "indexes": [n.index for n in wanted]},
    )
    found = {Node(row.level, row.node_index): bytes(row.hash) for row in rows}
    missing = [node for node in wanted if node not in found]
    if missing:
        raise Corrupt("log-corrupt", f"the log lacks {missing[0]}: restore proofs.node")
    return found


async def _insert(
    connection: Connection, leaves: Sequence[tuple[int, NewProof]], *, nodes: dict[Node, bytes]
) -> None:
    await connection.execute(
        _INSERT_LEAVES,
        {
            "indexes": [index for index, _ in leaves],
            "proof_ids": [proof.proof_id for _, proof in leaves],
            "attempt_ids": [proof.attempt_id for _, proof in leaves],
            "task_ids": [proof.task_id for _, proof in leaves],
            "envelopes": [proof.envelope for _, proof in leaves],
            "digests": [digests.of_bytes(proof.envelope) for _, proof in leaves],
            "tokens": [proof.tokens for _, proof in leaves],
        },
    )
    await connection.execute(
        _INSERT_NODES,
        {
            "levels": [node.level for node in nodes],
            "indexes": [node.index for node in nodes],
            "hashes": list(nodes.values()),
        },
    )
