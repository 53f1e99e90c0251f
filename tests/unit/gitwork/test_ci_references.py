"""What CI files name of their own repository: GitLab's includes, actions, hostile YAML."""

import pytest
from wfhub_agent_runner.gitwork import limits
from wfhub_agent_runner.gitwork.ci_references import (
    Reference,
    System,
    Unclear,
    named_by,
)


def gitlab(text: str) -> set[Reference]:
    return named_by(text.encode(), ".gitlab-ci.yml", System.GITLAB)


def actions(text: str, path: str = ".github/workflows/ci.yml") -> set[Reference]:
    return named_by(text.encode(), path, System.ACTIONS)


ONE = {Reference("ci/a.yml")}


@pytest.mark.parametrize(
    "text",
    [
        "include: ci/a.yml",
        "include: /ci/a.yml",
        "include: {local: ci/a.yml}",
        "include: [ci/a.yml]",
        "include:\n  - local: /ci/a.yml\n    rules: [{if: $X == 'y'}]",
        "include: [[{local: ci/a.yml}]]",
        "include: [{local: [ci/a.yml]}]",
        '"inclu\\u0064e": ci/a.yml',
        "spec: {inputs: {x: {}}}\n---\ninclude: ci/a.yml",
        "spec: {include: [{local: ci/a.yml}]}\n---\n",
        "job: {trigger: {include: ci/a.yml}}",
        "job: {trigger: {include: [{local: ci/a.yml, inputs: {x: y}}, {artifact: x, job: y}]}}",
        ".x: &x {local: ci/a.yml}\ninclude: [*x]",
        ".x: &x {local: ci/a.yml}\ninclude: [{<<: *x}]",
        "a: &a 1\nb: &a 2\ninclude: ci/a.yml",
        "a: {script: !reference [.x, y]}\ninclude: [{local: ci/a.yml, rules: !reference [.x]}]",
        "job: {x: !unknown {a: b}, y: !!python/object:os.system [x]}\ninclude: ci/a.yml",
        "include: [{project: '$CI_PROJECT_PATH', file: [/ci/a.yml]}]",
        "include: [{project: a/b, ref: $CI_COMMIT_SHA, file: ci/a.yml}]",
        "include: {local: ci/a.yml}\ninclude: {local: ci/a.yml}",
    ],
)
def test_gitlab_includes_a_file(text: str) -> None:
    assert gitlab(text) == ONE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: b",
        "- a\n- b",
        "just text",
        "include:",
        "include: https://example.org/a.yml",
        "include: [{remote: 'https://example.org/a.yml'}, {template: Jobs/Build.gitlab-ci.yml}]",
        "include: [{project: a/b, ref: main, file: ci/a.yml}, {component: host/a/b/c@1.0}]",
    ],
)
def test_what_is_elsewhere_is_no_file_of_this_repository(text: str) -> None:
    assert gitlab(text) == set()


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("include: ci/*.yml", "ci/", ".yml"),
        ("include: [{local: '/ci/**/*.yml'}]", "ci/", ".yml"),
        ("include: 'ci/$KIND/a.yml'", "ci/", "/a.yml"),
        ("include: 'ci/${KIND}-$X.yml'", "ci/", ".yml"),
        ("include: $FILE", "", ""),
        ("include: 'ci/$[[ inputs.kind ]].yml'", "ci/", ".yml"),
        ("include: [{component: '$CI_SERVER_FQDN/$CI_PROJECT_PATH/x@$SHA'}]", "templates/", ""),
    ],
)
def test_between_wildcards_and_variables_anything_matches(text: str, begin: str, end: str) -> None:
    assert gitlab(text) == {Reference(begin, end)}


def test_an_include_that_is_a_reference_is_unclear() -> None:
    with pytest.raises(Unclear, match="!reference"):
        gitlab("include: !reference [.x, include]")
    with pytest.raises(Unclear, match="!reference"):
        gitlab("include: [{local: !reference [.x, y]}]")


@pytest.mark.parametrize(
    "text",
    [
        "a: [b",
        "a: *nothing",
        "a: b\n  c: d",
        "\t- x",
        "a: \x00",
        "x: " + "[" * (limits.CI_YAML_DEPTH_MAX + 1),
        "x: " + "[" * 200_000,
    ],
    ids=["open", "alias", "indent", "tab", "nul", "deep", "very-deep"],
)
def test_what_cannot_be_read_is_unclear(text: str) -> None:
    with pytest.raises(Unclear):
        gitlab(text)


def test_bytes_that_are_no_text_are_unclear() -> None:
    with pytest.raises(Unclear):
        named_by(b"\xff\xfe\xff\x00x", ".gitlab-ci.yml", System.GITLAB)


def test_aliases_of_aliases_cost_nothing_and_may_turn_back() -> None:
    rows = ["a0: &a0 [ci/a.yml]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 60)]
    assert gitlab("\n".join([*rows, "include: *a59"])) == ONE
    assert gitlab("x: &x [*x, ci/a.yml]\ninclude: *x") == ONE
    assert gitlab("x: &x {include: ci/a.yml, y: *x}") == ONE


def test_a_local_action_is_its_file_and_all_in_its_folder() -> None:
    found = actions("jobs: {a: {steps: [{uses: ./tools/act}, {uses: actions/checkout@v4}]}}")
    assert found == {
        Reference("tools/act/action.yml"),
        Reference("tools/act/action.yaml"),
        Reference("tools/act", opened=False),
    }


def test_a_reusable_workflow_is_one_file() -> None:
    found = actions("jobs: {a: {uses: ./.github/workflows/b.yml}}")
    assert found == {Reference(".github/workflows/b.yml")}


def test_the_action_at_the_top_is_not_the_whole_repository() -> None:
    found = actions("jobs: {a: {steps: [{uses: ./}]}}")
    assert found == {Reference("action.yml"), Reference("action.yaml")}


def test_an_action_runs_what_is_beside_it() -> None:
    text = "runs: {using: node20, main: dist/index.js, post: ../end.js}"
    found = actions(text, "tools/act/action.yml")
    assert {each.begin for each in found} == {"tools/act/dist/index.js", "tools/end.js"}
    docker = "runs: {using: docker, image: Dockerfile, entrypoint: /run.sh}"
    assert {each.begin for each in actions(docker, "action.yml")} == {"Dockerfile", "run.sh"}
    assert actions("runs: {using: docker, image: 'docker://alpine:3'}", "action.yml") == set()
    assert actions(text, ".github/workflows/ci.yml") == set()


def test_a_matrix_that_includes_is_no_inclusion() -> None:
    assert actions("jobs: {a: {strategy: {matrix: {include: [{os: x}]}}}}") == set()
