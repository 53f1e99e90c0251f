"""/etc of a sandbox: a copy of the listed names, as fresh as the host's."""

import os
from pathlib import Path

import pytest
import unprivileged
from wfhub_agent_runner.sandbox import leftovers
from wfhub_agent_runner.sandbox.etc import Etc

OWN = {"passwd": "agent:x:1000\n"}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    made = tmp_path / "host"
    (made / "ssl" / "certs").mkdir(parents=True)
    (made / "ssl" / "certs" / "one.pem").write_text("one")
    (made / "ssl" / "certs" / "link.pem").symlink_to("/usr/share/ca-certificates/x.crt")
    (made / "shadow").write_text("secret")
    (made / "localtime").symlink_to(made / "zone")
    (made / "zone").write_text("UTC")
    return made


def test_what_is_not_listed_is_not_in_it(tmp_path: Path, host: Path) -> None:
    found = Etc(tmp_path / "scratch", OWN, host).current()
    assert sorted(os.listdir(found)) == ["localtime", "passwd", "ssl"]
    assert (found / "passwd").read_text() == OWN["passwd"]
    assert (found / "localtime").read_text() == "UTC"
    assert os.readlink(found / "ssl/certs/link.pem") == "/usr/share/ca-certificates/x.crt"


def test_a_change_of_the_hosts_is_seen_by_the_next_run_and_by_none_before(
    tmp_path: Path, host: Path
) -> None:
    etc = Etc(tmp_path / "scratch", OWN, host)
    before = etc.current()
    assert etc.current() == before
    (host / "ssl" / "certs" / "two.pem").write_text("two")
    after = etc.current()
    assert (after / "ssl/certs/two.pem").read_text() == "two"
    assert not (before / "ssl/certs/two.pem").exists()


def test_two_in_one_folder_do_not_touch_each_other_and_the_next_start_removes_both(
    tmp_path: Path, host: Path
) -> None:
    one = Etc(tmp_path / "scratch", OWN, host).current()
    other = Etc(tmp_path / "scratch", OWN, host).current()
    assert one != other
    assert sorted(os.listdir(one)) == sorted(os.listdir(other)) == ["localtime", "passwd", "ssl"]
    leftovers.sweep(tmp_path / "scratch")
    assert not one.exists()
    assert not other.exists()


def test_what_the_runner_may_not_read_is_left_out(tmp_path: Path, host: Path) -> None:
    (host / "ssl" / "private").mkdir(mode=0)

    async def work() -> list[str]:
        found = Etc(tmp_path / "scratch", OWN, host).current()
        return sorted(os.listdir(found / "ssl"))

    assert unprivileged.run(tmp_path, work) == ["certs"]
