"""`wfhub run` turns options into a task, and refuses what cannot be right before it submits."""

from pathlib import Path

import pytest
from wfhub_client import run_spec
from wfhub_client.errors import Usage


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.git",
        "ssh://git@example.org/a",
        "git@example.org:team/a.git",
        "file:///srv/a",
    ],
)
def test_a_url_is_passed_on_as_it_is(url: str) -> None:
    assert run_spec.repo_of(url) == url


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "repo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_spec.repo_of("repo") == str((tmp_path / "repo").resolve())
    assert run_spec.repo_of(".") == str(tmp_path.resolve())


def test_a_path_that_is_no_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Usage, match=r"there is no folder .*/nowhere"):
        run_spec.repo_of(str(tmp_path / "nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(Usage, match="is a file"):
        run_spec.repo_of(str(tmp_path / "file"))


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(Usage) as refused:
        run_spec.repo_of("https://me:hunter2@example.org/a")
    assert "hunter2" not in str(refused.value)


def test_a_prompt_comes_from_a_file_behind_an_at_sign(tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text("do it")
    assert run_spec.prompt_of(f"@{tmp_path}/p.md") == "do it"
    assert run_spec.prompt_of("plain") == "plain"
    with pytest.raises(Usage, match="cannot read"):
        run_spec.prompt_of("@/nowhere.md")


def test_an_agent_command_is_split_as_a_shell_would() -> None:
    assert run_spec.agent_of(None, "sh -c 'echo a b'", None)["argv"] == ["sh", "-c", "echo a b"]
    for bad in ("sh -c 'unclosed", "  "):
        with pytest.raises(Usage, match="--agent-cmd"):
            run_spec.agent_of(None, bad, None)
    with pytest.raises(Usage, match="not both"):
        run_spec.agent_of("goose", "sh", None)


def test_a_base_check_without_a_check_is_refused() -> None:
    with pytest.raises(Usage, match="--verify"):
        run_spec.task_spec(
            repo="/r",
            prompt="p",
            agent={},
            verify=[],
            verify_base=True,
            base=None,
            attempts=1,
            timeout_s=None,
            title="",
        )


def test_egress_is_left_to_its_default_unless_asked_for() -> None:
    nothing = dict.fromkeys(
        [
            "priority",
            "labels",
            "pool",
            "run_at",
            "deadline_at",
            "queue_s",
            "review_s",
            "idle_s",
            "retry_on",
            "backoff_s",
            "image",
            "setup",
            "setup_egress",
        ]
    )
    spec: dict[str, object] = {}
    run_spec.add_conditions(spec, egress=None, **nothing)  # type: ignore[arg-type]
    assert spec == {}
    run_spec.add_conditions(spec, egress=["a.example:443"], **nothing)  # type: ignore[arg-type]
    assert spec == {"egress": ["a.example:443"]}
