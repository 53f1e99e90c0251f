"""Graph: who needs whom, what may be wrong with that, and who comes before whom.

Tasks are numbered in the order of the document; `needs[i]` are the numbers that i needs.
Pure; linear in tasks and needs but for `ancestors`, which is a bit set a task.
"""

from collections.abc import Iterator, Mapping, Sequence

from wfhub_common import limits

from wfhub_scheduler.workflows.faults import Fault


def name_faults(needs: Mapping[str, Sequence[str]]) -> Iterator[Fault]:
    """Unknown names, a task that needs itself, a need that is there twice, too many in all."""
    total = 0
    for name, wanted in needs.items():
        total += len(wanted)
        seen: set[str] = set()
        for i, need in enumerate(wanted):
            path = ("tasks", name, "needs", i)
            if need == name:
                yield Fault(path, "a task cannot need itself")
            elif need not in needs:
                yield Fault(path, f"no task is named {need!r}")
            elif need in seen:
                yield Fault(path, f"{need!r} is needed twice; once is enough")
            seen.add(need)
    if total > limits.WORKFLOW_NEEDS_MAX:
        yield Fault(("tasks",), f"{total} needs in all; at most {limits.WORKFLOW_NEEDS_MAX}")


def cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """The first cycle, each task before one that it needs, its first task again at the end.

    Iterative: a chain of all tasks is deeper than Python's stack.
    """
    done: set[str] = set()
    for start in needs:
        if start in done:
            continue
        way: dict[str, Iterator[str]] = {start: iter(needs[start])}  # the path from `start`
        while way:
            here = next(reversed(way))
            step = next((need for need in way[here] if need not in done), None)
            if step is None:
                done.add(here)
                del way[here]
            elif step in way:
                names = list(way)
                return [*names[names.index(step) :], step]
            else:
                way[step] = iter(needs[step])
    return []


def cycle_fault(needs: Mapping[str, Sequence[str]]) -> Fault | None:
    way = cycle(needs)
    if not way:
        return None
    at = list(needs[way[0]]).index(way[1])
    path = ("tasks", way[0], "needs", at)
    return Fault(path, f"these tasks wait for each other: {' → '.join(_shortened(way))}")


def ancestors(needs: Sequence[Sequence[int]]) -> list[int]:
    """For each task the bit set of all that end before it may start. Of an acyclic graph."""
    found: dict[int, int] = {}
    for start in range(len(needs)):
        stack = [start]
        while stack:
            here = stack[-1]
            missing = [need for need in needs[here] if need not in found]
            if here in found or not missing:
                stack.pop()
                bits = 0
                for need in needs[here]:
                    bits |= found[need] | 1 << need
                found[here] = bits
            else:
                stack.extend(missing)
    return [found[i] for i in range(len(needs))]


def children(needs: Sequence[Sequence[int]]) -> list[list[int]]:
    turned: list[list[int]] = [[] for _ in needs]
    for child, wanted in enumerate(needs):
        for need in wanted:
            turned[need].append(child)
    return turned


def _shortened(way: list[str]) -> list[str]:
    return way if len(way) <= 30 else [*way[:20], f"… {len(way) - 25} more …", *way[-5:]]
