"""Graphs: cycles, ancestors and children, against the plainest way to find them."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from wfhub_scheduler.workflows import graph

Needs = dict[str, list[str]]


@st.composite
def graphs(draw: st.DrawFn) -> Needs:
    names = [f"t{i}" for i in range(draw(st.integers(1, 8)))]
    return {name: draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) for name in names}


def reachable(needs: Needs, start: str) -> set[str]:
    found: set[str] = set()
    while True:
        step = {need for name in [start, *found] for need in needs[name]} - found
        if not step:
            return found
        found |= step


@given(graphs())
def test_a_cycle_is_found_exactly_where_one_is(needs: Needs) -> None:
    way = graph.cycle(needs)
    assert bool(way) == any(name in reachable(needs, name) for name in needs)
    if way:
        assert way[0] == way[-1]
        assert all(step in needs[name] for name, step in pairwise(way))
        assert len(set(way)) == len(way) - 1
        assert graph.cycle_fault(needs) is not None


@given(graphs())
def test_ancestors_and_children_are_those_of_the_plain_search(needs: Needs) -> None:
    if graph.cycle(needs):
        return
    names = list(needs)
    numbered = [[names.index(need) for need in needs[name]] for name in names]
    for name, bits in zip(names, graph.ancestors(numbered), strict=True):
        assert {names[i] for i in range(len(names)) if bits >> i & 1} == reachable(needs, name)
    for i, children in enumerate(graph.children(numbered)):
        assert children == [j for j, wanted in enumerate(numbered) if i in wanted]
