"""What crosses processes: facts are additive, commands are exact, names agree everywhere."""

import inspect

import pytest
from pydantic import BaseModel, ValidationError
from wfhub_common import errors, identities, messages, subjects

FACTS = [
    kind
    for _, kind in inspect.getmembers(messages, inspect.isclass)
    if issubclass(kind, messages.Fact) and kind is not messages.Fact
]
COMMANDS = [
    kind
    for _, kind in inspect.getmembers(messages, inspect.isclass)
    if issubclass(kind, messages.Command) and kind is not messages.Command
]


@pytest.mark.parametrize("kind", FACTS + COMMANDS)
def test_every_message_is_frozen(kind: type[BaseModel]) -> None:
    assert kind.model_config.get("frozen") is True


def test_a_newer_reply_is_understood_and_a_newer_command_refused() -> None:
    reply = {"accepted": True, "state": "ready", "added_in_v1_7": 1}
    assert messages.Cancelled.model_validate(reply).accepted
    with pytest.raises(ValidationError):
        messages.CancelTask.model_validate({"task_id": "tsk_x", "force": True})


def test_a_new_field_of_a_task_is_sent_only_where_it_was_asked_for() -> None:
    """Else no runner of the version before could take any task (docs/upgrading.md)."""
    assert "review_s" not in messages.TaskSpec(repo="/r").model_dump(mode="json")
    asked = messages.TaskSpec(repo="/r", review_s=60)
    assert messages.TaskSpec.model_validate_json(asked.model_dump_json()) == asked


def test_a_projects_policy_is_sent_only_where_it_was_asked_for() -> None:
    """Else a scheduler of the version before could change no project (docs/upgrading.md)."""
    usual = [messages.CreateProject(name="a"), messages.UpdateProject(project="a")]
    for command in usual:
        assert not {"ci_files", "debuggers"} & command.model_dump(mode="json").keys()
    asked = messages.CreateProject(name="a", ci_files="allow", debuggers="allow")
    assert messages.CreateProject.model_validate_json(asked.model_dump_json()) == asked
    back = messages.UpdateProject(project="a", ci_files="review", debuggers="refuse")
    assert messages.UpdateProject.model_validate_json(back.model_dump_json()) == back


def test_what_a_runner_of_the_version_before_says_of_an_attempt_is_understood() -> None:
    said = {"runner_id": "rnr_a", "agent": "builtin", "changes": [], "changes_total": 0}
    assert messages.RunnerObservations.model_validate(said).ci_files is None


@pytest.mark.parametrize(
    "error",
    [
        errors.Rejected("x", "say", status=409, name="n"),
        errors.RetryLater("x", "say", retry_after_s=3.0),
        errors.LeaseLost("x", "say"),
        errors.Corrupt("x", "say"),
    ],
)
def test_an_error_survives_the_wire(error: errors.WfhubError) -> None:
    back = errors.from_wire(errors.to_wire(error))
    assert type(back) is type(error)
    assert vars(back) == vars(error)


def test_a_runner_may_speak_under_its_own_name_only() -> None:
    allowed = identities.runner("rnr_a").publish
    assert set(allowed) >= {subjects.rpc("rnr_a", c) for c in subjects.RUNNER_COMMANDS}
    assert not [s for s in allowed if "rnr_a" not in s]
    assert not [s for s in allowed if s.startswith("$JS")]


def test_a_password_in_a_repository_url_is_refused() -> None:
    with pytest.raises(ValidationError, match="password"):
        messages.TaskSpec(repo="https://user:secret@forge.example/x")


@pytest.mark.parametrize("field", ["run_at", "deadline_at"])
def test_an_instant_is_one_in_utc_as_well(field: str) -> None:
    for outside in ("9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+14:00"):
        with pytest.raises(ValidationError, match="years 1 to 9999"):
            messages.TaskSpec.model_validate({"repo": "/srv/demo", field: outside})
    for inside in ("9999-12-31T23:59:59Z", "2026-06-01T12:00:00+14:00"):
        messages.TaskSpec.model_validate({"repo": "/srv/demo", field: inside})
