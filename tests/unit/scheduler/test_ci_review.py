"""What a reviewer is told of CI files, by what the runner said and listed."""

from typing import Any

from wfhub_common import limits
from wfhub_common.messages import Change, RunnerObservations
from wfhub_scheduler import ci_review

WORKFLOW = ".github/workflows/ci.yml"


def said(*changed: str, **more: Any) -> str:
    changes = tuple(Change(path=path, change="modified") for path in changed)
    fields = {"changes": changes, "changes_total": len(changes), "ci_files": (), **more}
    return ci_review.said(RunnerObservations(runner_id="rnr_a", agent="a", **fields))


def test_nothing_is_said_where_no_ci_file_is_changed() -> None:
    assert said("a.py", "README.md") == ""
    assert said("a.py", ci_files=None) == ""


def test_the_files_that_the_runner_names_are_named() -> None:
    text = said("ci/main.yml", ci_files=("ci/main.yml",), ci_files_total=1)
    assert text.startswith("CI files are changed: 'ci/main.yml'; ")


def test_what_the_list_of_changes_shows_counts_whatever_the_runner_says() -> None:
    assert repr(WORKFLOW) in said(WORKFLOW, ci_files=())
    assert repr(WORKFLOW) in said(WORKFLOW, ci_files=None)


def test_an_earlier_runners_list_that_was_cut_short_has_a_person_look() -> None:
    text = said("a.py", ci_files=None, changes_total=2000)
    assert "listed 1 of 2000 changes" in text
    assert said("a.py", ci_files=(), changes_total=2000) == ""


def test_many_and_long_names_fit_into_a_message_and_the_rest_is_counted() -> None:
    many = tuple(f".github/workflows/{n:04}{'x' * 200}.yml" for n in range(100))
    text = said(ci_files=many, ci_files_total=5000)
    assert len(text) <= limits.MESSAGE_CHARS_MAX
    assert " and 4990 more" in text


def test_a_name_cannot_pretend_to_be_something_else() -> None:
    text = said(ci_files=(".github/workflows/\x1b[2K\u202egpj.yml\n",), ci_files_total=1)
    assert text.isprintable()


def test_where_nobody_can_tell_what_ci_files_bring_in_a_person_looks() -> None:
    text = said(
        "a.py", ci_files_unclear="'.gitlab-ci.yml' is no YAML that can be read: " + "x" * 999
    )
    assert text.startswith("CI files may be changed, since what they bring in is unclear: '.gitlab")
    assert len(text) <= limits.MESSAGE_CHARS_MAX
