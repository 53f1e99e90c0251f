"""Expressions in a task's texts, and what they become when the results are there."""

import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_common.messages import AgentSpec, TaskSpec
from wfhub_scheduler.workflows import expressions, filling
from wfhub_scheduler.workflows.expressions import BadExpression, Kind, Reference, Unresolvable

COMMIT = "c" * 40
OUTPUTS = dict.fromkeys(expressions.OUTPUTS, "") | {
    "state": "succeeded",
    "branch": "wfhub/tsk_a",
    "commit": COMMIT,
    "message": "it's done; rm -rf / $(id)",
}


def filled(**spec: Any) -> TaskSpec:
    raw = TaskSpec.model_validate({"repo": "/r", **spec}).model_dump(mode="json")
    return filling.with_results(raw, {"a": OUTPUTS})


def test_a_text_is_literal_pieces_and_references() -> None:
    text = "${{tasks.a.outputs.branch}} and $${{ x }} and ${{ tasks.b-2.outputs.commit }}."
    assert expressions.pieces(text, Kind.TEXT) == [
        Reference("a", "branch"),
        " and ",
        "${{",
        " x }} and ",
        Reference("b-2", "commit"),
        ".",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "${{",
        "${{ }}",
        "${{ tasks.a }}",
        "${{ tasks.a.outputs.nothing }}",
        "${{ tasks.a.outputs.branch || 'x' }}",
        "${{ tasks.a.outputs.branch ${{ }}",
        "${{ tasks." + "a" * 300 + ".outputs.branch }}",
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(BadExpression):
        expressions.pieces(text, Kind.TEXT)


def test_a_value_is_not_read_again() -> None:
    text = "${{ tasks.a.outputs.message }}"
    value = "${{ tasks.b.outputs.branch }} $${{"
    assert expressions.resolved(text, Kind.TEXT, lambda _: value) == value


@given(st.text(alphabet="${} atsk.outpubrnch", max_size=80))
def test_any_text_is_read_or_refused_and_plain_text_stays_itself(text: str) -> None:
    try:
        found = expressions.pieces(text, Kind.TEXT)
    except BadExpression:
        assert expressions.has_any(text)
        return
    if not expressions.has_any(text):
        assert "".join(map(str, found)) == text


@given(st.text(max_size=40))
def test_a_value_in_a_shell_command_is_one_word_or_refused(value: str) -> None:
    text = "printf %s ${{ tasks.a.outputs.branch }}"
    try:
        command = expressions.resolved(text, Kind.SHELL, lambda _: value)
    except Unresolvable:
        return
    assert shlex.split(command) == ["printf", "%s", value]


def test_a_shell_is_given_what_was_meant() -> None:
    text = "printf %s ${{ tasks.a.outputs.branch }}"
    command = expressions.resolved(text, Kind.SHELL, lambda _: "wfhub/tsk_a")
    assert subprocess.run(["sh", "-c", command], capture_output=True).stdout == b"wfhub/tsk_a"


def test_results_are_put_where_they_may_stand() -> None:
    spec = filled(
        prompt="go on from ${{ tasks.a.outputs.branch }}: ${{ tasks.a.outputs.message }} ($${{ })",
        title="${{ tasks.a.outputs.commit }}" + "x" * 170,
        base="${{ tasks.a.outputs.commit }}",
        verify=["git diff --stat ${{ tasks.a.outputs.commit }}"],
        agent={"argv": ["sh", "-c", "echo ${{ tasks.a.outputs.branch }}"]},
    )
    assert spec.prompt == f"go on from wfhub/tsk_a: {OUTPUTS['message']} (${{{{ }})"
    assert (spec.base, len(spec.title)) == (COMMIT, 200)
    assert spec.verify == (f"git diff --stat {COMMIT}",)
    assert spec.agent.argv == ("sh", "-c", "echo wfhub/tsk_a")


def test_what_does_not_fit_any_more_is_unresolvable_and_says_where() -> None:
    with pytest.raises(Unresolvable, match="base"):
        filled(base="${{ tasks.a.outputs.proof_id }}")  # there is none: an empty ref
    raw = TaskSpec(repo="/r", verify=("echo ${{ tasks.a.outputs.branch }}",)).model_dump(
        mode="json"
    )
    with pytest.raises(Unresolvable, match=r"verify\[0\].*read as code"):
        filling.with_results(raw, {"a": {**OUTPUTS, "branch": "x; reboot"}})


def test_what_a_runner_could_not_be_told_of_is_unresolvable() -> None:
    argv = ["${{ tasks.a.outputs.branch }}" * 10] * 200
    spec = TaskSpec(repo="/r", agent=AgentSpec(argv=tuple(argv))).model_dump(mode="json")
    filling.with_results(spec, {"a": OUTPUTS})
    with pytest.raises(Unresolvable, match="bytes"):
        filling.with_results(spec, {"a": {**OUTPUTS, "branch": "x" * 1000}})


def test_one_that_continues_another_has_its_commit_as_base() -> None:
    raw = TaskSpec(repo="/r", base="main").model_dump(mode="json")
    assert filling.with_results(raw, {}, OUTPUTS).base == COMMIT
    failed = {**OUTPUTS, "state": "failed", "commit": ""}
    assert filling.with_results(raw, {}, failed).base == "main"


def test_the_tasks_that_are_named() -> None:
    raw = TaskSpec(
        repo="/r", prompt="${{ tasks.a.outputs.state }} $${{", verify=("true",)
    ).model_dump(mode="json")
    assert filling.tasks_named(raw) == {"a"}
