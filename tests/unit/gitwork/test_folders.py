"""Folders below WORKSPACE_ROOT: their names, and the rules of who may use them."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from wfhub_agent_runner.gitwork import folders
from wfhub_agent_runner.gitwork.folders import Directory
from wfhub_agent_runner.gitwork.location import Policy
from wfhub_common import workspace_folders
from wfhub_common.errors import Rejected
from wfhub_common.messages import TaskSpec


@pytest.mark.parametrize(
    ("repo", "text"),
    [
        ("mount:app", "mount:app"),
        ("directory:./a//b/", "directory:a/b"),
        ("directory:a b/ü", "directory:a b/ü"),
    ],
)
def test_a_name_has_one_spelling(repo: str, text: str) -> None:
    assert str(workspace_folders.parse(repo)) == text
    assert TaskSpec(repo=repo).repo == text


@pytest.mark.parametrize("repo", ["/srv/app", "git@host:app", "https://h/app", "mounts:app"])
def test_other_addresses_are_none(repo: str) -> None:
    assert workspace_folders.parse(repo) is None


@pytest.mark.parametrize(
    "repo", ["mount:", "mount:/etc", "directory:..", "directory:a/../../b", "directory:."]
)
def test_a_way_out_is_refused(repo: str) -> None:
    with pytest.raises(ValueError, match="WORKSPACE_ROOT"):
        workspace_folders.parse(repo)
    with pytest.raises(ValidationError, match="WORKSPACE_ROOT"):
        TaskSpec(repo=repo)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"repo": "/srv/app", "apply": True}, "apply: needs a folder"),
        ({"repo": "directory:a", "base": "main"}, "no branches"),
        ({"repo": "directory:a", "pull_request": {}}, "has none"),
    ],
)
def test_a_task_says_what_does_not_fit_a_folder(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TaskSpec.model_validate(fields)


@pytest.mark.parametrize("text", ["app", "app=", "/app=web", "a/../b=web", "app:rw=web", "=web"])
def test_a_rule_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="folder"):
        folders.parse_rules(f"shared:ro=*;{text}")


def test_the_rule_of_the_longest_folder_decides(tmp_path: Path) -> None:
    for name in ("team/app/secret", "team/app/docs", "shared", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "shared" / "way").symlink_to(tmp_path / "team" / "app" / "secret")
    policy = Policy(
        workspace_root=str(tmp_path),
        workspace_folders="team/app=web,mobile; team/app/secret=boss; shared:ro=*",
    )

    def found(repo: str, project: str, *, writes: bool = False) -> str:
        name = workspace_folders.parse(repo)
        assert name is not None
        try:
            at = folders.located(name, policy, project=project, writes=writes)
        except Rejected as e:
            return e.code
        assert isinstance(at, Directory)
        return str(at.path.relative_to(tmp_path))

    assert found("directory:team/app/docs", "web", writes=True) == "team/app/docs"
    assert found("directory:team/app", "boss") == "repo-forbidden"
    assert found("directory:team/app/secret", "boss") == "team/app/secret"
    assert found("directory:team/app/secret", "web") == "repo-forbidden"
    assert found("directory:shared/way", "web") == "repo-forbidden"  # where it really lies
    assert found("directory:shared", "anyone") == "shared"
    assert found("directory:shared", "anyone", writes=True) == "folder-read-only"
    assert found("directory:other", "web") == "repo-forbidden"
    assert found("mount:shared", "web") == "folder-read-only"


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "out").symlink_to("/etc")
    name = workspace_folders.parse("directory:out")
    assert name is not None
    for root, code in ((str(tmp_path / "root"), "repo-forbidden"), ("", "workspace-root-unset")):
        with pytest.raises(Rejected) as refused:
            folders.located(name, Policy(workspace_root=root), project="", writes=False)
        assert refused.value.code == code
