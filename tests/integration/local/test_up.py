"""`wfhub up`: ready, once per directory, ended cleanly, recovered from anything."""

import importlib.util
import itertools
import json
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from wfhub_local.ports import listening, port_of

from .conftest import END_S_MAX, WFHUB, Up, eventually, get, gone, plain_environment


def test_ready_means_that_the_api_answers_and_a_runner_is_there(started: Callable[..., Up]) -> None:
    up = started().ready()
    assert get(f"{up.url}/readyz")[0] == 200
    assert (up.data / "runner-1" / "ready").exists()
    state = json.loads((up.data / "state.json").read_text())
    assert (state["url"], state["pid"]) == (up.url, up.process.pid)
    token = Path(state["token_file"]).read_text().strip()
    assert get(f"{up.url}/v1/projects", token)[0] == 200
    assert get(f"{up.url}/v1/projects")[0] == 401


def test_a_second_up_finds_the_first_and_leaves_it_alone(started: Callable[..., Up]) -> None:
    up = started().ready()
    before = set(psutil.Process(up.process.pid).children())
    second = subprocess.run(
        [WFHUB, "up", "--data", str(up.data)],
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=END_S_MAX,
    )
    assert second.returncode == 0, second.stderr
    assert f"already running at {up.url} (pid {up.process.pid})" in second.stdout
    other = subprocess.run(
        [WFHUB, "up", "--data", str(up.data), "--slots", "5", "--runners", "1"],
        env={**plain_environment(), "LLM_MODEL": "another"},
        capture_output=True,
        text=True,
        timeout=END_S_MAX,
    )
    assert other.returncode == 1
    assert "--slots 5 (2 there), LLM_MODEL (not set there); end it" in other.stderr
    assert len(before) >= 7
    assert set(psutil.Process(up.process.pid).children()) >= before


def test_ctrl_c_ends_everything_with_status_0(started: Callable[..., Up]) -> None:
    up = started().ready()
    below = up.below()
    assert len(below) >= 7
    assert up.interrupt() == 0
    assert gone(below) == []
    assert not (up.data / "state.json").exists()
    assert "database system is shut down" in (up.data / "logs" / "postgres.log").read_text()


def test_ctrl_c_while_it_starts_ends_everything_too(started: Callable[..., Up]) -> None:
    up = started()
    up.said("bringing the database up to date")
    below = up.below()
    assert up.interrupt() == 0
    assert gone(below) == []
    again = started().ready()
    assert again.interrupt() == 0


def test_a_killed_stack_leaves_nothing_and_the_next_one_recovers(
    started: Callable[..., Up],
) -> None:
    up = started().ready()
    token = (up.data / "admin-token").read_text()
    below = up.below()
    assert any("postgres" in name for name in up.of_each(psutil.Process.name))
    up.kill()
    assert gone(below) == []

    again = started().ready()
    assert (again.data / "admin-token").read_text() == token
    assert get(f"{again.url}/v1/projects", token.strip())[0] == 200
    assert again.interrupt() == 0


def test_a_killed_stack_takes_its_sandboxes_with_it(
    started: Callable[..., Up], tmp_path: Path
) -> None:
    up = started().ready()
    repo = tmp_path / "repo"
    for words in (
        ["init", "-q", "-b", "main", str(repo)],
        ["-C", str(repo), "commit", "-q", "--allow-empty", "-m", "first"],
    ):
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *who, *words], check=True)
    subprocess.run(
        [WFHUB, "run", "--repo", str(repo), "--agent-cmd", "sleep 1234", "--detach"],
        env={**plain_environment(), "WFHUB_DATA": str(up.data)},
        check=True,
        capture_output=True,
        timeout=END_S_MAX,
    )
    eventually(lambda: up.find("sleep 1234"))
    below = up.below()
    up.kill()
    assert gone(below) == []


def test_a_pid_file_that_names_another_process_by_now_is_no_obstacle(
    started: Callable[..., Up],
) -> None:
    first = started().ready()
    first.kill()
    assert gone([psutil.Process(first.process.pid)] if first.process.poll() is None else []) == []
    pid_file = first.data / "postgres" / "data" / "postmaster.pid"
    pid_file.write_text(f"1\n{pid_file.parent}\n0\n1\n\n\n0 0\nready\n")
    started().ready()


def test_a_port_in_use_is_named(started: Callable[..., Up]) -> None:
    with listening() as taken:
        port = port_of(taken)
        up = started(arguments=("--port", str(port)))
        assert up.process.wait(END_S_MAX) != 0
        assert f"port {port} is in use; choose another with --port" in up.said("in use")


def test_servers_that_are_there_already_are_used(
    started: Callable[..., Up], nats_url: str, database_url: str
) -> None:
    up = started(env={"NATS_URL": nats_url, "DATABASE_URL": database_url}).ready()
    names = " ".join(up.of_each(psutil.Process.name))
    assert "nats-server" not in names
    assert "postgres" not in names
    assert get(f"{up.url}/readyz")[0] == 200
    assert up.interrupt() == 0


def test_two_runners_have_two_identities(started: Callable[..., Up]) -> None:
    up = started(arguments=("--port", "0", "--runners", "2")).ready()
    assert (up.data / "runner-2" / "ready").exists()
    ids = json.loads((up.data / "credentials.json").read_text())["runner_ids"]
    assert len(set(ids)) == 2


def test_a_closed_terminal_ends_it(started: Callable[..., Up]) -> None:
    up = started(
        prefix=("env", "--default-signal=HUP")
    ).ready()  # whoever runs the tests ignores it
    below = up.below()
    up.process.send_signal(signal.SIGHUP)
    assert up.process.wait(END_S_MAX) == 0
    assert gone(below) == []


def connections(process: psutil.Process) -> list[Any]:
    return process.net_connections(kind="inet")


def test_no_port_is_open_to_the_network(started: Callable[..., Up]) -> None:
    up = started().ready()
    inet = [*up.of_each(connections), connections(psutil.Process(up.process.pid))]
    heard = {
        c.laddr.ip
        for c in itertools.chain.from_iterable(inet)
        if c.status == psutil.CONN_LISTEN and c.family in (socket.AF_INET, socket.AF_INET6)
    }
    assert heard == {"127.0.0.1"}


def test_a_cassette_in_a_closed_folder_is_replayed_and_a_recording_begun(
    started: Callable[..., Up], tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    cassette, record = closed / "old.jsonl", closed / "new.jsonl"
    found = importlib.util.find_spec("wfhub_local")
    assert found is not None
    assert found.origin is not None
    shipped = Path(found.origin).parent / "demo" / "parse-int-base.cassette.jsonl"
    cassette.write_bytes(shipped.read_bytes())
    cassette.chmod(0o644)
    replaying = started(env={"LLM_PROVIDER": "replay", "LLM_CASSETTE": str(cassette)}).ready()
    assert replaying.interrupt() == 0

    recording = started(
        env={"LLM_RECORD": str(record), "LLM_BASE_URL": "http://127.0.0.1:9/v1"}
    ).ready()
    assert recording.interrupt() == 0
    assert record.stat().st_size > 0
