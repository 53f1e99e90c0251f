"""Documents of workflows: read into plans, or refused with the path of each fault."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_common import limits
from wfhub_common.errors import Rejected
from wfhub_common.messages import NeedsPolicy, OnFailure
from wfhub_scheduler.workflows import documents
from wfhub_scheduler.workflows.documents import Node, Plan


def document(tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "release", "defaults": {"repo": "/r"}, "tasks": tasks, **fields}


def faults(raw: dict[str, Any]) -> dict[str, str]:
    """Path → message of a document that is refused."""
    with pytest.raises(Rejected) as caught:
        documents.read(raw)
    assert caught.value.code == "workflow-invalid"
    first = caught.value.fields["faults"][0]
    assert str(caught.value).startswith(f"workflow-invalid: {first['path']}: {first['message']}")
    return {fault["path"]: fault["message"] for fault in caught.value.fields["faults"]}


def node(plan: Plan, name: str) -> Node:
    (found,) = (each for each in plan.nodes if each.name == name)
    return found


def test_a_diamond_is_numbered_in_the_order_of_the_document() -> None:
    plan = documents.read(
        document(
            {
                "a": {},
                "b": {"needs": ["a"]},
                "c": {"needs": ["a"], "needs_policy": "all_done", "on_failure": "continue"},
                "d": {"needs": ["b", "c"]},
            }
        )
    )
    assert [each.needs for each in plan.nodes] == [(), (0,), (0,), (1, 2)]
    assert [each.children for each in plan.nodes] == [(1, 2), (3,), (3,), ()]
    assert (plan.name, plan.on_failure) == ("release", OnFailure.FAIL)
    assert node(plan, "c").needs_policy is NeedsPolicy.ALL_DONE
    assert [each.on_failure for each in plan.nodes].count(OnFailure.CONTINUE) == 1


def test_a_task_is_laid_over_the_defaults_field_by_field() -> None:
    defaults = {
        "repo": "/r",
        "verify": ["make test"],
        "agent": {"name": "builtin", "model": "small"},
        "limits": {"run_s": 60, "idle_s": 10},
        "retry": {"attempts_max": 3},
    }
    tasks = {
        "a": {"agent": {"model": "large"}, "limits": {"run_s": 90}, "verify": []},
        "b": {"repo": "/other", "retry": {"factor": 3}},
    }
    plan = documents.read(document(tasks, defaults=defaults))
    a, b = (each.spec for each in plan.nodes)
    assert (a.agent.name, a.agent.model, a.verify) == ("builtin", "large", ())
    assert (a.limits.run_s, a.limits.idle_s) == (90, 10)
    assert (b.repo, b.retry.attempts_max, b.retry.factor) == ("/other", 3, 3)


def test_a_task_continues_its_only_need_unless_it_says_where_to_begin() -> None:
    plan = documents.read(
        document(
            {
                "a": {},
                "continues": {"needs": ["a"]},
                "begins": {"needs": ["a"], "base": "main"},
                "anew": {"needs": ["a"], "base": None},
                "elsewhere": {"needs": ["a"], "repo": "/other"},
                "joins": {"needs": ["a", "continues"]},
            },
            defaults={"repo": "/r", "base": "main"},
        )
    )
    assert {each.name: each.continues for each in plan.nodes} == {
        "a": None,
        "continues": 0,
        "begins": None,
        "anew": None,
        "elsewhere": None,
        "joins": None,
    }


@pytest.mark.parametrize(
    ("tasks", "path", "says"),
    [
        ({"a": {"needs": ["b"]}}, "tasks.a.needs[0]", "no task is named 'b'"),
        ({"a": {"needs": ["a"]}}, "tasks.a.needs[0]", "itself"),
        ({"a": {}, "b": {"needs": ["a", "a"]}}, "tasks.b.needs[1]", "twice"),
        (
            {"x": {}, "a": {"needs": ["x", "b"]}, "b": {"needs": ["c"]}, "c": {"needs": ["a"]}},
            "tasks.a.needs[1]",
            "a → b → c → a",
        ),
        ({"a": {"agent": {"argv": []}}}, "tasks.a.agent.argv", "at least 1"),
        ({"a": {"promt": "x"}}, "tasks.a.promt", "no such field"),
        ({"a": {"limits": {"run_s": 0}}}, "tasks.a.limits.run_s", "greater"),
        ({"a": {"needs_policy": "any"}}, "tasks.a.needs_policy", "all_succeeded"),
        ({"a b": {}}, "tasks.a b", "not a name"),
        ({}, "tasks", "at least 1"),
        (
            {"a": {}, "b": {"prompt": "${{ tasks.a.outputs.branch }}"}},
            "tasks.b.prompt",
            "does not need 'a'",
        ),
        ({"a": {"prompt": "${{ tasks.z.outputs.branch }}"}}, "tasks.a.prompt", "named 'z'"),
        ({"a": {"prompt": "${{ env.HOME }}"}}, "tasks.a.prompt", "not an expression"),
        ({"a": {"prompt": "see ${{ this"}}, "tasks.a.prompt", "has no `}}`"),
        ({"a": {"repo": "/r/${{ tasks.a.outputs.branch }}"}}, "tasks.a.repo", "may stand here"),
        (
            {"a": {}, "b": {"needs": ["a"], "verify": ["echo ${{ tasks.a.outputs.message }}"]}},
            "tasks.b.verify[0]",
            "free text",
        ),
    ],
)
def test_a_fault_has_its_path(tasks: dict[str, Any], path: str, says: str) -> None:
    found = faults(document(tasks))
    assert path in found
    assert says in found[path]


def test_a_fault_of_the_defaults_is_said_once() -> None:
    found = faults(
        document({"a": {}, "b": {}}, defaults={"repo": "/r", "priority": 500, "needs": []})
    )
    assert set(found) == {"defaults.priority", "defaults.needs"}


def test_every_fault_is_told_up_to_a_limit() -> None:
    with pytest.raises(Rejected, match="and 49 more") as caught:
        documents.read(document({f"t{i}": {"needs": ["nobody"]} for i in range(50)}))
    assert len(caught.value.fields["faults"]) == 20


def test_results_of_any_ancestor_may_be_named() -> None:
    plan = documents.read(
        document(
            {
                "a": {},
                "b": {"needs": ["a"]},
                "c": {"needs": ["b"], "prompt": "after ${{ tasks.a.outputs.commit }}"},
            }
        )
    )
    assert node(plan, "c").spec.prompt.startswith("after ${{")


def test_what_is_too_large_or_no_plain_json_is_refused() -> None:
    with pytest.raises(Rejected) as caught:
        documents.read(document({"a": {"prompt": "x" * limits.WORKFLOW_BYTES_MAX}}))
    assert (caught.value.code, caught.value.status) == ("workflow-too-large", 413)
    for value in (0.5, float("nan"), {1, 2}):
        with pytest.raises(Rejected, match="plain JSON"):
            documents.read(document({"a": {"prompt": value}}))


WORDS = [
    "name",
    "defaults",
    "tasks",
    "needs",
    "a",
    "b",
    "repo",
    "prompt",
    "agent",
    "argv",
    "limits",
]
TEXTS = st.sampled_from(
    [*WORDS, "", "/r", "${{ tasks.a.outputs.branch }}", "${{ x }}", "\x00", "é"]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


@given(
    st.dictionaries(TEXTS, anything)
    | st.fixed_dictionaries(
        {
            "name": TEXTS,
            "defaults": st.fixed_dictionaries({"repo": TEXTS}) | anything,
            "tasks": st.dictionaries(TEXTS, st.dictionaries(TEXTS, anything), max_size=4),
        }
    )
)
def test_whatever_is_submitted_is_a_plan_or_refused(raw: dict[str, Any]) -> None:
    with suppress(Rejected):
        plan = documents.read(raw)
        assert [each.name for each in plan.nodes] == list(raw["tasks"])


def test_defaults_that_are_large_in_each_of_many_tasks_are_refused() -> None:
    raw = document({f"t{n}": {} for n in range(limits.WORKFLOW_TASKS_MAX)})
    raw["defaults"]["prompt"] = "x" * 100_000
    with pytest.raises(Rejected) as caught:
        documents.read(raw)
    assert (caught.value.code, caught.value.status) == ("workflow-too-large", 413)
    raw["defaults"]["prompt"] = "x" * 1000
    documents.read(raw)


def test_a_chain_and_a_fan_of_all_tasks_are_read() -> None:
    count = limits.WORKFLOW_TASKS_MAX
    chain = {f"t{i}": {"needs": [f"t{i - 1}"] if i else []} for i in range(count)}
    assert documents.read(document(chain)).nodes[-1].needs == (count - 2,)
    chain["t0"]["needs"] = [f"t{count - 1}"]
    assert "… 1976 more …" in faults(document(chain))["tasks.t0.needs[0]"]
    fan = {f"t{i}": {} for i in range(count - 1)}
    fan["last"] = {"needs": list(fan)}
    assert len(documents.read(document(fan)).nodes[-1].needs) == count - 1
