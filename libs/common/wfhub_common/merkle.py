"""The Merkle tree of RFC 6962: hashing, appending, audit paths, and their verification. Pure.

Shape: leaves are numbered from 0 without gaps; `Node(level, index)` is a *complete* subtree of
2**level leaves, which never changes once it is there. A tree of any size is a row of complete
subtrees ("peaks"), so that appending, the root and an audit path each touch O(log size) nodes.
Hashes are 32 bytes (SHA-256); a leaf's is over 0x00 and its data, a node's over 0x01 and its two.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class Node:
    level: int
    index: int


class Range(NamedTuple):
    """Leaves start … end - 1, a subtree of RFC 6962 section 2.1, complete or not."""

    start: int
    end: int


@dataclass(frozen=True)
class Appended:
    """What one more leaf adds: the nodes it completes (itself at level 0), and the new root."""

    nodes: dict[Node, bytes]
    root: bytes


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def complete_nodes(leaves: Range) -> list[Node]:
    """The complete subtrees that make up such a range, left to right."""
    nodes, start = [], leaves.start
    while start < leaves.end:
        level = (leaves.end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def peaks(size: int) -> list[Node]:
    return complete_nodes(Range(0, size))


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, left to right, as `complete_nodes` lists them."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def append(size: int, peak_hashes: Sequence[bytes], leaf: bytes) -> Appended:
    """Add a leaf hash to a tree of `size` leaves whose peaks have these hashes."""
    remaining = list(peak_hashes)
    node, value = Node(0, size), leaf
    added = {node: value}
    while node.index % 2 == 1:  # a right child: the left one is the last peak
        value = node_hash(remaining.pop(), value)
        node = Node(node.level + 1, node.index // 2)
        added[node] = value
    return Appended(added, root_of([*remaining, value]))


def audit_path(index: int, size: int) -> list[Range]:
    """The subtrees whose roots prove leaf `index` of a tree of `size`, from the leaf upwards."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if index < middle:
            path.append(Range(middle, end))
            end = middle
        else:
            path.append(Range(start, middle))
            start = middle
    return path[::-1]


def path_nodes(index: int, size: int) -> list[Node]:
    """Every complete node that `inclusion_proof` will look up."""
    return [node for leaves in audit_path(index, size) for node in complete_nodes(leaves)]


def inclusion_proof(index: int, size: int, nodes: Mapping[Node, bytes]) -> list[bytes]:
    return [
        root_of([nodes[node] for node in complete_nodes(leaves)])
        for leaves in audit_path(index, size)
    ]


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """RFC 9162 section 2.1.3.2: does the proof lead from this leaf to this root?"""
    if not 0 <= index < size:
        return False
    at, last, value = index, size - 1, leaf
    for sibling in proof:
        if last == 0 or len(sibling) != HASH_BYTES:
            return False
        if at % 2 == 1 or at == last:
            value = node_hash(sibling, value)
            while at % 2 == 0 and at != 0:
                at, last = at >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and value == root
