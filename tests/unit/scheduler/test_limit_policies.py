"""What holds for a task, of what it asks for and what its project says."""

import pytest
from wfhub_common.errors import Rejected
from wfhub_common.messages import LimitChanges, LimitPolicy, Limits, LimitsAsked, TaskSpec
from wfhub_scheduler import limit_policies

GIB = 2**30


def policy(default: dict[str, int] | None = None, **most: int) -> LimitPolicy:
    return LimitPolicy.model_validate({"default": default or {}, "max": most})


def in_force(project: LimitPolicy, **asked: int) -> Limits:
    spec = TaskSpec(repo="/srv/repo", limits=LimitsAsked.model_validate(asked))
    return limit_policies.settled(spec, project, "web").limits.in_force()


def test_without_a_policy_the_products_defaults_hold() -> None:
    assert in_force(policy()) == Limits()


def test_what_a_task_asks_for_comes_before_its_projects_default() -> None:
    project = policy({"run_s": 60, "cpu_millicores": 1500})
    found = in_force(project, run_s=90)
    assert (found.run_s, found.cpu_millicores, found.verify_s) == (90, 1500, Limits().verify_s)


def test_what_nobody_says_is_never_more_than_the_maximum() -> None:
    found = in_force(policy(memory_bytes=GIB, run_s=7200, cpu_millicores=2500, idle_s=300))
    assert (found.memory_bytes, found.run_s) == (GIB, Limits().run_s)
    assert (found.cpu_millicores, found.idle_s) == (2500, 300)  # of which the product has no limit


def test_more_than_the_maximum_is_refused_by_name() -> None:
    project = policy(memory_bytes=GIB, cpu_millicores=2000)
    assert in_force(project, memory_bytes=GIB, cpu_millicores=2000).memory_bytes == GIB
    with pytest.raises(
        Rejected, match=r"limits\.cpu_millicores: 2500 .*'web' allows, which is 2000"
    ) as caught:
        in_force(project, cpu_millicores=2500)
    assert caught.value.code == "limit-above-maximum"
    assert caught.value.fields == {"limit": "cpu_millicores", "asked": 2500, "maximum": 2000}


def test_a_settled_task_is_not_changed_by_what_its_project_says_later() -> None:
    spec = limit_policies.settled(TaskSpec(repo="/srv/repo"), policy({"run_s": 60}), "web")
    again = limit_policies.settled(spec, policy({"run_s": 90, "open_files": 100}), "web")
    assert again.limits == spec.limits


def test_changes_are_laid_over_and_null_takes_away() -> None:
    before = policy({"run_s": 60, "cpu_millicores": 1000}, run_s=600)
    changes = LimitChanges(
        default={"cpu_millicores": None, "verify_s": 30}, max={"memory_bytes": GIB}
    )
    after = limit_policies.changed(before, changes)
    assert after == policy({"run_s": 60, "verify_s": 30}, run_s=600, memory_bytes=GIB)
    assert limit_policies.stored(limit_policies.plain(after)) == after


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"default": {"run_s": 601}}, r"default\.run_s: 601 is more than .* 600"),
        ({"max": {"cpus": 1}}, r"limits\.max\.cpus"),
        ({"max": {"run_s": 0}}, r"limits\.max\.run_s"),
        ({"max": {"cpu_millicores": -1}}, r"limits\.max\.cpu"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(
    changes: dict[str, dict[str, int | None]], said: str
) -> None:
    with pytest.raises(Rejected, match=said) as caught:
        limit_policies.changed(policy(run_s=600), LimitChanges(**changes))
    assert caught.value.code == "limits-invalid"
