"""Which paths decide what a CI system runs."""

import pytest
from wfhub_common.ci_files import CI_SYSTEMS, is_ci_file


@pytest.mark.parametrize(
    "path",
    [
        ".github/workflows/ci.yml",
        ".github/workflows/deep/er/x.yaml",
        ".github/actions/build/run.sh",
        "action.yml",
        "tools/lint/action.yaml",
        ".gitlab-ci.yml",
        "ci/templates/build.gitlab-ci.yml",
        ".gitlab/ci/build.yml",
        ".gitlab/agents/prod/config.yaml",
        ".forgejo/workflows/x.yml",
        ".gitea/workflows/x.yml",
        ".circleci/config.yml",
        "Jenkinsfile",
        "services/a/Jenkinsfile",
        "Jenkinsfile.release",
        "ci/nightly.jenkinsfile",
        "azure-pipelines.yml",
        "build/azure-pipelines-release.yaml",
        ".drone.yml",
        ".woodpecker.yml",
        ".woodpecker/test.yaml",
        "bitbucket-pipelines.yml",
        ".travis.yml",
        ".buildkite/pipeline.yml",
        ".buildkite/hooks/pre-command",
        ".builds/debian.yml",
        ".tekton/push.yaml",
    ],
)
def test_a_file_that_a_ci_system_reads_counts_in_any_letter_case(path: str) -> None:
    assert is_ci_file(path)
    assert is_ci_file(path.upper())
    assert is_ci_file(path.title())


@pytest.mark.parametrize(
    "path", [".github", ".GitHub", ".github/workflows", ".circleci", ".gitlab", ".buildkite"]
)
def test_a_link_or_submodule_where_their_folder_is_counts(path: str) -> None:
    assert is_ci_file(path)


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        ".github/ISSUE_TEMPLATE/bug.md",
        ".github/CODEOWNERS",
        "docs/.github/workflows/ci.yml",
        "github/workflows/ci.yml",
        ".github-old/workflows/ci.yml",
        ".github/workflows-old/ci.yml",
        "src/.travis.yml",
        "reaction.yml",
        "action.yml/x",
        "MyJenkinsfile",
        ".gitlab-ci.yml.bak",
        "scripts/test.sh",
        "",
    ],
)
def test_other_files_do_not(path: str) -> None:
    assert not is_ci_file(path)


def test_a_name_with_a_line_break_is_matched_as_a_whole() -> None:
    assert is_ci_file(".github/workflows/a\nb.yml")
    assert not is_ci_file("README\n.travis.yml")
    assert not is_ci_file(".travis.yml\n")


def test_each_system_says_where_its_files_are_documented() -> None:
    assert all(system.patterns and system.source for system in CI_SYSTEMS)
    names = [system.name for system in CI_SYSTEMS]
    assert len(names) == len(set(names))
