"""The built-in agent's tools, each as the model sees it."""

import os
import tempfile
import time
from pathlib import Path

import pytest
from wfhub_agent_runner.agents.builtin import files as files_module
from wfhub_agent_runner.agents.builtin import shell as shell_module
from wfhub_agent_runner.agents.builtin import tools
from wfhub_agent_runner.agents.builtin.errors import ToolError
from wfhub_agent_runner.agents.builtin.files import Files
from wfhub_agent_runner.agents.builtin.shell import Shell


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return folder


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.fixture
def shell() -> Shell:
    return Shell()


def test_a_command_gives_its_exit_code_and_both_streams_in_order(shell: Shell) -> None:
    assert shell.run("echo out; echo err >&2; exit 7") == "exit code: 7\nout\nerr\n"


def test_a_command_has_no_input(shell: Shell) -> None:
    assert shell.run("cat") == "exit code: 0\n"


def test_a_command_over_its_time_is_killed_with_all_it_started(shell: Shell, inside: Path) -> None:
    result = shell.run("echo before; sleep 60 & echo $! > child; wait", timeout_s=3)
    assert result == "killed: it ran longer than 3 s\nbefore\n"
    child = Path("/proc") / (inside / "child").read_text().strip() / "stat"
    until = time.monotonic() + 5
    while child.exists() and child.read_text().split()[2] != "Z":
        assert time.monotonic() < until, "the child outlived the timeout"
        os.sched_yield()


def test_a_process_left_in_the_background_is_not_waited_for(shell: Shell) -> None:
    started = time.monotonic()
    assert shell.run("sleep 20 & echo on").startswith("exit code: 0\non\n")
    assert time.monotonic() - started < 10


def test_of_a_long_output_head_and_tail_are_kept(shell: Shell) -> None:
    result = shell.run("echo first; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo last")
    assert result.startswith("exit code: 0\nfirst\nxxx")
    assert result.endswith("xxx\nlast\n")
    assert "bytes left out" in result
    assert len(result) < shell_module.OUTPUT_BYTES_MAX + 400


def test_the_rest_of_a_long_output_can_be_read(shell: Shell, files: Files) -> None:
    result = shell.run("seq 1 20000")
    path = result.split("all of it: ")[1].split(",")[0]
    assert "9999\n10000\n10001" not in result
    assert files.read(path, 10_000, 2).startswith(
        f"{path}, lines 10000 to 10001 of 20000:\n10000\t10000\n10001\t10001"
    )


def test_only_the_last_long_outputs_are_kept(shell: Shell, inside: Path) -> None:
    for _ in range(shell_module.OUTPUT_FILES_MAX + 3):
        shell.run("head -c 20000 /dev/zero")
    kept = list((inside.parent / "tmp" / shell_module.FOLDER).iterdir())
    assert len(kept) == shell_module.OUTPUT_FILES_MAX
    assert list(inside.iterdir()) == []  # none of it is part of the result


def test_an_output_that_cannot_be_kept_is_still_given(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    assert "could not be kept" in shell.run("seq 1 20000")


def test_lines_are_numbered_and_a_range_can_be_asked_for(files: Files, inside: Path) -> None:
    (inside / "f").write_text("a\nb\nc\nd")
    assert files.read("f", 2, 2) == "f, lines 2 to 3 of 4:\n2\tb\n3\tc"
    with pytest.raises(ToolError, match="only 4 lines"):
        files.read("f", 9)


def test_an_empty_file_can_be_read(files: Files, inside: Path) -> None:
    (inside / "f").write_text("")
    assert files.read("f") == "f, lines 1 to 0 of 0:\n"


def test_a_patch_keeps_every_other_byte(files: Files, inside: Path) -> None:
    (inside / "f").write_bytes(b"\xff\r\none\r\ntwo\r\n")
    (inside / "f").chmod(0o755)
    assert files.patch("f", "one", "eins") == "patched f at line 2"
    assert (inside / "f").read_bytes() == b"\xff\r\neins\r\ntwo\r\n"
    assert (inside / "f").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("search", "count"), [("three", 0), ("o", 2), ("", 0)])
def test_a_patch_that_is_not_unique_changes_nothing(
    files: Files, inside: Path, search: str, count: int
) -> None:
    (inside / "f").write_text("one\ntwo\n")
    with pytest.raises(ToolError, match=f"occurs {count} times"):
        files.patch("f", search, "x")
    assert (inside / "f").read_text() == "one\ntwo\n"


def test_a_file_too_large_to_read_is_refused(files: Files, inside: Path) -> None:
    with (inside / "f").open("wb") as file:
        file.truncate(files_module.READ_BYTES_MAX + 1)
    with pytest.raises(ToolError, match="use run_command"):
        files.read("f")


def test_text_that_is_no_call_is_left_alone() -> None:
    for text in ("", "hello", '{"name": "unknown"}', "{not json}", "use `{}` here", "[1]"):
        assert tools.call_in_text(text) is None


def test_a_long_file_is_read_in_parts_that_say_where_to_go_on(files: Files, inside: Path) -> None:
    (inside / "f").write_text("".join(f"{n} {'x' * 90}\n" for n in range(1, 1001)))
    first = files.read("f", 1, 1000)
    assert len(first) < files_module.READ_CHARS_MAX + 200
    start = int(first.rsplit("start_line ", 1)[1].rstrip("]"))
    assert files.read("f", start, 1).startswith(f"f, lines {start} to {start} of 1000:\n{start}\t")


def test_of_a_very_long_line_the_beginning_is_given(files: Files, inside: Path) -> None:
    (inside / "f").write_text("a" * 50_000)
    assert "48000 characters left out" in files.read("f")


def test_a_file_that_was_not_read_is_not_overwritten(files: Files, inside: Path) -> None:
    (inside / "f").write_text("what somebody wrote\n")
    with pytest.raises(ToolError, match="read it first"):
        files.write("f", "new")
    files.read("f")
    assert files.write("f", "new") == "wrote 3 bytes to f"
    assert files.write("f", "newer") == "wrote 5 bytes to f"


def test_a_file_that_changed_since_it_was_read_is_not_overwritten(
    files: Files, inside: Path
) -> None:
    (inside / "f").write_text("one\n")
    files.read("f")
    (inside / "f").write_text("two\n")
    with pytest.raises(ToolError, match="as it is now"):
        files.write("./f", "new")
    assert (inside / "f").read_text() == "two\n"


def test_a_file_read_in_part_is_not_overwritten_but_can_be_patched(
    files: Files, inside: Path
) -> None:
    (inside / "f").write_text("one\ntwo\n")
    files.read("f", 1, 1)
    files.patch("f", "one", "eins")
    with pytest.raises(ToolError, match="read it first"):
        files.write("f", "new")


def test_a_plan_is_kept_and_bounded() -> None:
    box = tools.Toolbox()
    box.calls["update_plan"](plan="1. look")
    assert box.plan == "1. look"
    with pytest.raises(ToolError, match="shorter"):
        box.update_plan("x" * (tools.PLAN_CHARS_MAX + 1))
    assert box.plan == "1. look"


def test_every_tool_that_is_offered_can_be_called() -> None:
    assert set(tools.Toolbox().calls) == set(tools.TOOLS)
