"""CI files: the paths of a repository that decide what its CI systems run, and with which secrets.

A branch that changes one can have the host run what it likes as soon as it is pushed. The table is
what the systems read by themselves; what such a file calls (a script, a Makefile) is code like any
other. Patterns are of a path from the repository's top: `*` stops at a slash, a leading `**/` is
any folder, a trailing `/**` the folder and all below.
Letter case does not count: some hosts and most checkouts fold it. A path *above* one counts too
(`.github` that becomes a link or a submodule takes all workflows with it). Pure.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class CiSystem:
    """`source`: where its own documentation says that it reads these."""

    name: str
    patterns: tuple[str, ...]
    source: str


CI_SYSTEMS: tuple[CiSystem, ...] = (
    CiSystem(
        "GitHub Actions",
        (".github/workflows/**", ".github/actions/**", "**/action.yml", "**/action.yaml"),
        "GitHub Docs: Workflow syntax; Metadata syntax reference (actions of the repository's own)",
    ),
    CiSystem(
        # Includes are local paths of any name, which a runner follows (gitwork/ci_includes); the
        # folders are where its documentation has them.
        "GitLab CI/CD",
        (".gitlab-ci.yml", "**/*.gitlab-ci.yml", ".gitlab/**", ".gitlab-ci/**"),
        "GitLab Docs: CI/CD YAML syntax, include:local; .gitlab/agents lets CI into a cluster",
    ),
    CiSystem("Forgejo Actions", (".forgejo/**",), "Forgejo documentation: Actions reference"),
    CiSystem("Gitea Actions", (".gitea/**",), "Gitea documentation: Actions FAQ, .gitea/workflows"),
    CiSystem("CircleCI", (".circleci/**", "circle.yml"), "CircleCI docs: Configuration reference"),
    CiSystem(
        "Jenkins",
        ("**/Jenkinsfile", "**/Jenkinsfile.*", "**/*.jenkinsfile"),
        "Jenkins handbook: Using a Jenkinsfile; Pipeline: Multibranch, script path",
    ),
    CiSystem(
        "Azure Pipelines",
        (
            "**/azure-pipelines*.yml",
            "**/azure-pipelines*.yaml",
            ".azure-pipelines/**",
            ".azuredevops/**",
            ".vsts-ci.yml",
        ),
        "Microsoft Learn: Azure Pipelines YAML schema; Templates",
    ),
    CiSystem(
        "Drone",
        (".drone.yml", ".drone.yaml", ".drone.star", ".drone.jsonnet"),
        "Drone docs: Pipeline configuration; Starlark; Jsonnet",
    ),
    CiSystem("Woodpecker", (".woodpecker*", ".woodpecker/**"), "Woodpecker docs: Workflow syntax"),
    CiSystem(
        "Bitbucket Pipelines",
        ("bitbucket-pipelines.yml", "bitbucket-pipelines.yaml"),
        "Bitbucket Support: bitbucket-pipelines.yml configuration reference",
    ),
    CiSystem("Travis CI", (".travis.yml",), "Travis CI docs: Build config reference"),
    CiSystem(
        "Buildkite",
        (".buildkite/**", "buildkite/**", "buildkite.yml", "buildkite.yaml", "buildkite.json"),
        "Buildkite docs: buildkite-agent pipeline upload, default files; hooks in .buildkite/hooks",
    ),
    CiSystem(
        "AppVeyor", ("appveyor.yml", ".appveyor.yml"), "AppVeyor docs: appveyor.yml reference"
    ),
    CiSystem("Cirrus CI", (".cirrus.yml", ".cirrus.star"), "Cirrus CI docs: Writing tasks"),
    CiSystem("Semaphore", (".semaphore/**",), "Semaphore docs: Pipeline YAML reference"),
    CiSystem("TeamCity", (".teamcity/**",), "TeamCity docs: Kotlin DSL; Storing settings in VCS"),
    CiSystem(
        "SourceHut builds", (".build.yml", ".builds/**"), "man.sr.ht: builds.sr.ht, git integration"
    ),
    CiSystem("Tekton", (".tekton/**",), "Pipelines-as-Code docs: PipelineRuns in .tekton"),
    CiSystem(
        "CodeBuild", ("buildspec.yml", "buildspec.yaml"), "AWS CodeBuild: Build spec reference"
    ),
    CiSystem(
        "Cloud Build",
        ("cloudbuild.yaml", "cloudbuild.yml"),
        "Google Cloud Build: Build config file",
    ),
)


def is_ci_file(path: str) -> bool:
    """Whether a change of the file, link or submodule at that path may change what CI runs."""
    return _READ.fullmatch(path.casefold()) is not None


def _expression(pattern: str) -> str:
    anywhere = "(?:.*/)?" if pattern.startswith("**/") else ""
    *above, last = pattern.removeprefix("**/").split("/")
    if last == "**":  # the folder is a path above all that is in it
        return anywhere + _nested([*map(_name, above), ".*"])
    return anywhere + _nested([*map(_name, above), _name(last)])


def _nested(names: list[str]) -> str:
    """Any beginning of it."""
    first, *rest = names
    return f"{first}(?:/{_nested(rest)})?" if rest else first


def _name(glob: str) -> str:
    return "[^/]*".join(re.escape(part) for part in glob.casefold().split("*"))


_READ = re.compile(
    "|".join(_expression(pattern) for system in CI_SYSTEMS for pattern in system.patterns),
    re.DOTALL,
)
