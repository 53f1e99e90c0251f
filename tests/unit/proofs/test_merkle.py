"""The tree of RFC 6962, against its known vectors and against the recursive definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_common import merkle
from wfhub_common.merkle import Node

SIZE_MAX = 70

# The leaves and roots that Certificate Transparency implementations share as test vectors.
KNOWN_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
KNOWN_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def defined_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return merkle.EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return merkle.node_hash(defined_root(leaves[:k]), defined_root(leaves[k:]))


def grown(leaves: list[bytes]) -> tuple[dict[Node, bytes], list[bytes]]:
    """Every node after appending the leaves one by one, and the root after each."""
    nodes: dict[Node, bytes] = {}
    roots = []
    for size, leaf in enumerate(leaves):
        added = merkle.append(size, [nodes[peak] for peak in merkle.peaks(size)], leaf)
        assert not nodes.keys() & added.nodes.keys()  # a node never changes
        nodes |= added.nodes
        roots.append(added.root)
    return nodes, roots


LEAVES = [merkle.leaf_hash(b"leaf %d" % n) for n in range(SIZE_MAX)]
NODES, ROOTS = grown(LEAVES)


def test_roots_match_the_known_vectors() -> None:
    _, roots = grown([merkle.leaf_hash(data) for data in KNOWN_LEAVES])
    assert [root.hex() for root in roots] == KNOWN_ROOTS


def test_roots_match_the_definition_for_every_size() -> None:
    assert [defined_root(LEAVES[: n + 1]) for n in range(SIZE_MAX)] == ROOTS


def test_the_root_of_no_leaves_is_the_hash_of_nothing() -> None:
    assert merkle.root_of([]) == merkle.EMPTY_ROOT


def test_every_leaf_of_every_size_is_proved_and_no_other() -> None:
    for size in range(1, SIZE_MAX + 1):
        root = ROOTS[size - 1]
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, NODES)
            assert merkle.verify_inclusion(LEAVES[index], index, size, proof, root)
            other = (index + 1) % size
            if other != index:
                assert not merkle.verify_inclusion(LEAVES[index], other, size, proof, root)
                assert not merkle.verify_inclusion(LEAVES[other], index, size, proof, root)


@given(st.data())
def test_a_changed_proof_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, SIZE_MAX))
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(index, size, NODES)
    at = data.draw(st.integers(0, len(proof) - 1))
    bit = data.draw(st.integers(0, 255))
    changed = bytearray(proof[at])
    changed[bit // 8] ^= 1 << bit % 8
    bad = [
        [*proof[:at], bytes(changed), *proof[at + 1 :]],
        [*proof[:at], *proof[at + 1 :]],
        [*proof, proof[at]],
        [*proof[:at], proof[at][:-1], *proof[at + 1 :]],
    ]
    root = ROOTS[size - 1]
    assert not any(merkle.verify_inclusion(LEAVES[index], index, size, p, root) for p in bad)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (5, 5), (-1, 3)])
def test_a_leaf_outside_the_tree_has_no_proof(index: int, size: int) -> None:
    assert not merkle.verify_inclusion(LEAVES[0], index, size, [], ROOTS[0])
    with pytest.raises(ValueError, match="is not in a tree"):
        merkle.audit_path(index, size)
