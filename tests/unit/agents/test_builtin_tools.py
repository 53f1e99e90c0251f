"""The built-in agent's tools, each as the model sees it."""

import os
import time
from pathlib import Path

import pytest
from wfhub_agent_runner.agents.builtin import tools
from wfhub_agent_runner.agents.builtin.tools import ToolError


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_command_gives_its_exit_code_and_both_streams_in_order() -> None:
    assert tools.run_command("echo out; echo err >&2; exit 7") == "exit code: 7\nout\nerr\n"


def test_a_command_has_no_input() -> None:
    assert tools.run_command("cat") == "exit code: 0\n"


def test_a_command_over_its_time_is_killed_with_all_it_started(inside: Path) -> None:
    result = tools.run_command("echo before; sleep 60 & echo $! > child; wait", timeout_s=1)
    assert result == "killed: it ran longer than 1 s\nbefore\n"
    child = Path("/proc") / (inside / "child").read_text().strip() / "stat"
    until = time.monotonic() + 5
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < until, "the child outlived the timeout"
        os.sched_yield()


def test_a_process_left_in_the_background_is_not_waited_for() -> None:
    started = time.monotonic()
    assert tools.run_command("sleep 20 & echo on").startswith("exit code: 0\non\n")
    assert time.monotonic() - started < 10


def test_of_a_long_output_head_and_tail_are_kept() -> None:
    result = tools.run_command(
        "echo first; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo last"
    )
    assert result.startswith("exit code: 0\nfirst\nxxx")
    assert result.endswith("xxx\nlast\n")
    assert "bytes left out" in result
    assert len(result) < tools.OUTPUT_BYTES_MAX + 200


def test_lines_are_numbered_and_a_range_can_be_asked_for(inside: Path) -> None:
    (inside / "f").write_text("a\nb\nc\nd")
    assert tools.read_file("f", 2, 2) == "f, lines 2 to 3 of 4:\n2\tb\n3\tc"
    with pytest.raises(ToolError, match="only 4 lines"):
        tools.read_file("f", 9)


def test_an_empty_file_can_be_read(inside: Path) -> None:
    (inside / "f").write_text("")
    assert tools.read_file("f") == "f, lines 1 to 0 of 0:\n"


def test_a_patch_keeps_every_other_byte(inside: Path) -> None:
    (inside / "f").write_bytes(b"\xff\r\none\r\ntwo\r\n")
    (inside / "f").chmod(0o755)
    assert tools.patch_file("f", "one", "eins") == "patched f at line 2"
    assert (inside / "f").read_bytes() == b"\xff\r\neins\r\ntwo\r\n"
    assert (inside / "f").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("search", "count"), [("three", 0), ("o", 2), ("", 0)])
def test_a_patch_that_is_not_unique_changes_nothing(inside: Path, search: str, count: int) -> None:
    (inside / "f").write_text("one\ntwo\n")
    with pytest.raises(ToolError, match=f"occurs {count} times"):
        tools.patch_file("f", search, "x")
    assert (inside / "f").read_text() == "one\ntwo\n"


def test_a_file_too_large_to_read_is_refused(inside: Path) -> None:
    with (inside / "f").open("wb") as file:
        file.truncate(tools.READ_BYTES_MAX + 1)
    with pytest.raises(ToolError, match="use run_command"):
        tools.read_file("f")


def test_text_that_is_no_call_is_left_alone() -> None:
    for text in ("", "hello", '{"name": "unknown"}', "{not json}", "use `{}` here", "[1]"):
        assert tools.call_in_text(text) is None
