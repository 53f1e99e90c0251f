"""How the built-in agent waits and reads answers: pure functions."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from wfhub_agent_runner.agents import archive, builtin
from wfhub_agent_runner.agents.builtin.model import (
    RETRY_S_MAX,
    ModelError,
    refused,
    retry_delay_s,
    sse_chunks,
)


def test_waiting_doubles_within_its_jitter_and_is_always_the_same() -> None:
    waits = [retry_delay_s(n, 0.0, 1.0, seed=5) for n in range(1, 6)]
    assert waits == [retry_delay_s(n, 0.0, 1.0, seed=5) for n in range(1, 6)]
    for n, wait_s in enumerate(waits):
        assert 0.75 * 2**n <= wait_s <= 1.25 * 2**n
    assert len({retry_delay_s(1, 0.0, 1.0, seed=seed) for seed in range(50)}) > 25


@pytest.mark.parametrize(
    ("asked", "after_s"), [("7", 7.0), ("0.5", 0.5), (None, 0.0), ("soon", 0.0), ("-3", 0.0)]
)
def test_what_the_server_asks_is_respected(asked: str | None, after_s: float) -> None:
    assert refused(503, b"", asked).after_s == after_s


def test_no_server_can_ask_for_more_than_the_limit() -> None:
    assert retry_delay_s(1, 86_400.0, 1.0, seed=1) == RETRY_S_MAX


@pytest.mark.parametrize(
    ("status", "again"),
    [(400, False), (401, False), (404, False), (408, True), (409, False), (429, True), (502, True)],
)
def test_only_what_may_pass_is_asked_again(status: int, again: bool) -> None:
    assert refused(status, b"", None).retry is again


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "no such model", "code": "x"}}', "no such model"),
        ('{"error": "plain"}', '{"error": "plain"}'),
        ('{"error": {"message": ""}}', '{"error": {"message": ""}}'),
        ("[1]", "[1]"),
        ("<html>bad gateway", "<html>bad gateway"),
    ],
)
def test_an_error_is_said_in_its_own_words(body: str, words: str) -> None:
    assert str(refused(404, body.encode(), None)) == f"the model's server answered 404: {words}"


def test_events_are_read_whatever_their_line_ends_and_comments() -> None:
    lines = [b": ping\r\n", b"\r\n", b"event: x\n", b'data:{"a":\n', b"data: 1}\n", b"\n"]
    assert list(sse_chunks([*lines, b"data: [DONE]\n", b"\n"])) == [{"a": 1}]


def test_a_stream_without_its_end_is_no_answer() -> None:
    with pytest.raises(ModelError, match="before it was complete"):
        list(sse_chunks([b'data: {"a": 1}\n', b"\n"]))


def test_the_agent_is_one_file_that_needs_the_standard_library_of_python_3_8() -> None:
    imported = set()
    for source in Path(builtin.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(), feature_version=(3, 8))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).split(".")[0])
    assert imported <= sys.stdlib_module_names


def test_the_archive_is_the_same_for_the_same_sources_and_runs(tmp_path: Path) -> None:
    first = archive.content()
    archive.content.cache_clear()
    assert archive.content() == first
    script = tmp_path / archive.NAME
    script.write_bytes(first)
    done = subprocess.run(
        [sys.executable, "-I", "-S", script], env={}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 5
    assert "WFHUB_PROMPT_FILE is not set" in done.stdout
