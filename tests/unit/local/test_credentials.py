import json
import stat
from pathlib import Path

import pytest
from wfhub_admin.files import private_file
from wfhub_common import ids
from wfhub_common.httpauth import sender_of
from wfhub_local.credentials import hand_over, load_or_create
from wfhub_local.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "data")
    made.make()
    return made


def test_secrets_are_made_once_and_found_again(layout: Layout) -> None:
    assert load_or_create(layout, 1) == load_or_create(layout, 1)


def test_more_runners_get_identities_and_the_first_keep_theirs(layout: Layout) -> None:
    one, three = load_or_create(layout, 1), load_or_create(layout, 3)
    assert three.runner_ids[:1] == one.runner_ids
    assert len(set(three.runner_ids)) == 3
    assert all(ids.is_id(runner, "rnr") for runner in three.runner_ids)
    assert three.nats[one.runner_ids[0]] == one.nats[one.runner_ids[0]]
    assert load_or_create(layout, 1).runner_ids == three.runner_ids  # work of theirs may remain


def test_all_secrets_differ(layout: Layout) -> None:
    made = load_or_create(layout, 2)
    every = [*made.nats.values(), *made.database.values(), *made.tokens.values(), made.admin_token]
    assert len(set(every)) == len(every)


def test_secret_files_are_the_owners_alone(layout: Layout) -> None:
    load_or_create(layout, 1)
    for file in (layout.credentials, layout.admin_token):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_secret_shows_in_a_repr(layout: Layout) -> None:
    made = load_or_create(layout, 1)
    assert made.admin_token not in repr(made)
    assert made.nats["api"] not in repr(made)


def test_lost_secrets_beside_a_database_are_not_replaced(layout: Layout) -> None:
    (layout.postgres / "data").mkdir(parents=True)
    with pytest.raises(SystemExit, match="put it back"):
        load_or_create(layout, 1)


def test_accepted_tokens_are_digests_of_each_senders_token(layout: Layout) -> None:
    made = load_or_create(layout, 1)
    accepted = json.loads(made.accepted())
    assert sender_of(made.tokens["api"], accepted) == "api"
    assert made.tokens["api"] not in made.accepted()


def test_a_secret_is_handed_over_as_a_file_and_named_in_the_environment(tmp_path: Path) -> None:
    env = hand_over(tmp_path, 0, {"NATS_PASSWORD": "x", "SERVICE_TOKENS_FILE": "{}"})
    assert Path(env["NATS_PASSWORD_FILE"]).read_text() == "x"
    assert Path(env["SERVICE_TOKENS_FILE"]).read_text() == "{}"


def test_a_private_file_replaces_a_readable_one(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("old")
    file.chmod(0o644)
    private_file(file, "new", 0)
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o600)
