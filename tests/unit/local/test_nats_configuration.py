import json
import subprocess
from pathlib import Path

from wfhub_common import ids
from wfhub_local import nats_server


def configuration(tmp_path: Path, *users: str) -> str:
    passwords = {user: f"secret-of-{user}" for user in users}
    return nats_server.configuration(port=4222, store=tmp_path / "js", passwords=passwords)


def test_the_server_accepts_it(tmp_path: Path) -> None:
    file = tmp_path / "nats.conf"
    file.write_text(configuration(tmp_path, "api", "scheduler", str(ids.new_runner_id())))
    checked = subprocess.run(
        [nats_server.binary(), "-t", "-c", file], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_it_listens_on_loopback_and_nobody_is_let_in_without_a_password(tmp_path: Path) -> None:
    made = json.loads(configuration(tmp_path, "api"))
    assert made["listen"] == "127.0.0.1:4222"
    assert "no_auth_user" not in made
    assert all(user["password"] for user in made["authorization"]["users"])
    assert "http" not in made


def test_only_who_answers_requests_may_reply(tmp_path: Path) -> None:
    runner = str(ids.new_runner_id())
    users = json.loads(configuration(tmp_path, "api", "scheduler", runner))["authorization"][
        "users"
    ]
    replies = {user["user"]: user["permissions"].get("allow_responses", False) for user in users}
    # A runner answers for its attempts, when the scheduler has a word for one of them.
    assert replies == {"api": False, "scheduler": True, runner: True}


def test_a_runner_hears_what_is_said_to_itself_alone(tmp_path: Path) -> None:
    runner = str(ids.new_runner_id())
    [user] = json.loads(configuration(tmp_path, runner))["authorization"]["users"]
    heard = user["permissions"]["subscribe"]["allow"]
    assert [subject for subject in heard if ".ctl." in subject] == [f"wfhub.v1.ctl.{runner}.steer"]


def test_a_user_that_is_no_service_has_a_runners_permissions(tmp_path: Path) -> None:
    runner = str(ids.new_runner_id())
    [user] = json.loads(configuration(tmp_path, runner))["authorization"]["users"]
    allowed = user["permissions"]["publish"]["allow"]
    assert f"wfhub.v1.rpc.{runner}.claim" in allowed
    assert not any(subject.startswith("$JS") for subject in allowed)
