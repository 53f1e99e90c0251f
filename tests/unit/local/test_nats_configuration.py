import json
import subprocess
from pathlib import Path
from typing import Any

from wfhub_admin.subscribers import Subscriber
from wfhub_common import identities, ids
from wfhub_local import nats_server


def configuration(tmp_path: Path, *users: str) -> str:
    passwords = {user: f"secret-of-{user}" for user in users}
    return nats_server.configuration(port=4222, store=tmp_path / "js", passwords=passwords)


def users_of(text: str) -> list[dict[str, Any]]:
    return [user for account in json.loads(text)["accounts"].values() for user in account["users"]]


def test_the_server_accepts_it(tmp_path: Path) -> None:
    file = tmp_path / "nats.conf"
    passwords = dict.fromkeys(("api", "scheduler", str(ids.new_runner_id())), "p")
    heard = {Subscriber("ci", (str(ids.new_project_id()),)): "p", Subscriber("audit"): "p"}
    file.write_text(
        nats_server.configuration(
            port=4222, store=tmp_path / "js", passwords=passwords, subscribers=heard
        )
    )
    checked = subprocess.run(
        [nats_server.binary(), "-t", "-c", file], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_it_listens_on_loopback_and_nobody_is_let_in_without_a_password(tmp_path: Path) -> None:
    made = json.loads(configuration(tmp_path, "api"))
    assert made["listen"] == "127.0.0.1:4222"
    assert "no_auth_user" not in made
    assert all(user["password"] for user in users_of(json.dumps(made)))
    assert "http" not in made


def test_only_who_answers_requests_may_reply(tmp_path: Path) -> None:
    runner = str(ids.new_runner_id())
    users = users_of(configuration(tmp_path, "api", "scheduler", runner))
    replies = {user["user"]: user["permissions"].get("allow_responses", False) for user in users}
    # A runner answers for its attempts, when the scheduler has a word for one of them.
    assert replies == {"api": False, "scheduler": True, runner: True}


def test_a_runner_hears_what_is_said_to_itself_alone(tmp_path: Path) -> None:
    runner = str(ids.new_runner_id())
    [user] = users_of(configuration(tmp_path, runner))
    heard = user["permissions"]["subscribe"]["allow"]
    assert [subject for subject in heard if ".ctl." in subject] == [f"wfhub.v1.ctl.{runner}.steer"]


def test_a_user_that_is_no_service_has_a_runners_permissions(tmp_path: Path) -> None:
    runner = str(ids.new_runner_id())
    [user] = users_of(configuration(tmp_path, runner))
    allowed = user["permissions"]["publish"]["allow"]
    assert f"wfhub.v1.rpc.{runner}.claim" in allowed
    assert not any(subject.startswith("$JS") for subject in allowed)


def test_each_kind_has_an_account_and_only_the_services_have_streams(tmp_path: Path) -> None:
    runner = str(ids.new_runner_id())
    made = json.loads(configuration(tmp_path, "api", runner))["accounts"]
    names = {name: [user["user"] for user in account["users"]] for name, account in made.items()}
    assert names == {"HUB": ["api"], "RUNNERS": [runner], "SUBSCRIBERS": []}
    assert [name for name, account in made.items() if "jetstream" in account] == ["HUB"]


def test_what_one_account_takes_the_other_gives_and_no_event_is_taken_from_a_runner(
    tmp_path: Path,
) -> None:
    made = json.loads(configuration(tmp_path, "api"))["accounts"]
    given = {
        (kind, name, to, offer[kind])
        for name, account in made.items()
        for offer in account["exports"]
        for kind in ("service", "stream")
        if kind in offer
        for to in offer["accounts"]
    }
    taken = {
        (kind, wanted[kind]["account"], name, wanted[kind]["subject"])
        for name, account in made.items()
        for wanted in account["imports"]
        for kind in ("service", "stream")
        if kind in wanted
    }
    assert given == taken
    asked = {subject for kind, _, to, subject in given if (kind, to) == ("service", "RUNNERS")}
    assert "wfhub.v1.rpc.*.claim" in asked
    assert not any(".evt." in subject or ".wake" in subject for subject in asked)


def test_a_subscriber_may_hear_and_nothing_else() -> None:
    project = str(ids.new_project_id())
    may = identities.subscriber((project,))
    assert (may.publish, may.responds) == ((), False)
    assert may.subscribe == (f"wfhub.v1.evt.{project}.*.*.*",)
    assert identities.subscriber().subscribe == ("wfhub.v1.evt.>",)
