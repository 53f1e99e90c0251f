"""The demo's repository has the defect that it says it has, and the cassette fits it."""

import shlex
import subprocess

from dulwich import porcelain
from wfhub_local.demo import make_cassette, sources, turns
from wfhub_local.demo.folder import Folder
from wfhub_local.demo.repository import SOURCE_FILE, TEST_FILE

HEAD = "178773797c9fa7fa761780f7930737aa46602c00"
FAILING = "test_parse.py::TestParseType::test_int_convert_stateless_base"


def run_tests(folder: Folder) -> subprocess.CompletedProcess[str]:
    """As the demo's verification does, but for the sandbox."""
    return subprocess.run(
        [*shlex.split(turns.TESTS), "--rootdir=.", "--config-file=/dev/null"],
        cwd=folder.repository,
        env={"PATH": f"{folder.toolchain / 'bin'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_repository_is_the_same_everywhere_and_its_working_tree_is_clean(demo: Folder) -> None:
    assert demo.make_repository() == HEAD
    status = porcelain.status(str(demo.repository))
    assert status.unstaged == []
    assert status.untracked == []
    assert not any(status.staged.values())


def test_the_released_defect_fails_the_one_new_test(demo: Folder) -> None:
    demo.make_repository()
    done = run_tests(demo)
    assert done.returncode == 1
    assert "1 failed, 77 passed" in done.stdout
    assert FAILING in done.stdout


def test_the_next_releases_source_passes_every_test(demo: Folder) -> None:
    demo.make_repository()
    repaired = sources.files_of(demo.archive(sources.REPAIRED))[SOURCE_FILE]
    (demo.repository / SOURCE_FILE).write_bytes(repaired.content)
    done = run_tests(demo)
    assert done.returncode == 0, done.stdout
    assert "78 passed" in done.stdout


def test_the_hand_written_change_is_that_of_the_next_release(demo: Folder) -> None:
    """Word for word, apart from the space in one slice and the version."""
    released = sources.files_of(demo.archive(sources.REPAIRED))[SOURCE_FILE].content.decode()
    before = sources.files_of(demo.archive(sources.DEFECTIVE))[SOURCE_FILE].content.decode()
    assert before.count(turns.BEFORE) == 1
    assert released.count(turns.AFTER.replace("CHARS[:base]", "CHARS[: base]")) == 1


def test_the_test_file_is_the_only_difference_to_the_release(demo: Folder) -> None:
    demo.make_repository()
    released = sources.files_of(demo.archive(sources.DEFECTIVE))
    changed = {
        path
        for path, file in released.items()
        if (demo.repository / path).read_bytes() != file.content
    }
    assert changed == {TEST_FILE}


def test_the_cassette_is_what_its_turns_make_of_the_agent_and_the_repository(
    demo: Folder,
) -> None:
    """If this fails: python -m wfhub_local.demo.make_cassette"""
    assert make_cassette.make(demo) == turns.CASSETTE.read_text()
