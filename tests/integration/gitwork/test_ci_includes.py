"""What CI files include of a real repository, as git made it and a runner leases it."""

from pathlib import Path

from gitrepos import git
from wfhub_agent_runner.gitwork.workspaces import Workspaces

from .leasing import leased, made


def committed(repo: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_text(text)
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "CI")


async def test_what_the_base_includes_and_what_only_the_result_includes_are_ci_files(
    spaces: Workspaces, repo: Path
) -> None:
    committed(
        repo,
        {
            ".gitlab-ci.yml": "include:\n  - local: /pipe/main.yml\n",
            "pipe/main.yml": "include: ['jobs/**/*.yml']\njob:\n  script: !reference [.x, y]\n",
            "jobs/deep/one.yml": "x: y\n",
            "new.yml": "x: y\n",
            "other.yml": "x: y\n",
        },
    )
    result = await made(
        spaces,
        await leased(spaces, repo),
        "echo 'include: new.yml' > .gitlab-ci.yml; echo 'evil: yes' > pipe/main.yml;"
        " for file in jobs/deep/one.yml jobs/two.yml new.yml other.yml; do echo a > $file; done",
    )
    named = (".gitlab-ci.yml", "jobs/deep/one.yml", "jobs/two.yml", "new.yml", "pipe/main.yml")
    assert result.ci_files == named
    assert result.ci_files_total == len(named)
    assert result.ci_files_unclear == ""


async def test_a_base_whose_ci_files_cannot_be_followed_is_said_to_be_unclear(
    spaces: Workspaces, repo: Path
) -> None:
    committed(repo, {".gitlab-ci.yml": "include: ci.yml\n", "ci.yml": "a: [\n"})
    result = await made(spaces, await leased(spaces, repo), "echo two >> README")
    assert result.ci_files == ()
    assert result.ci_files_unclear.startswith("'ci.yml' is no YAML that can be read: ")
