"""`make security` itself: it notices what got through, what was skipped, what is missing."""

import json
import subprocess
import sys
from pathlib import Path

import sandbox_backends

SUPPORT = Path(__file__).parent.parent / "support"


def run(folder: Path, code: str) -> tuple[int, dict[str, object]]:
    place = folder / "security"
    place.mkdir()
    (place / "test_planted.py").write_text(code)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = hostile\n")
    done = subprocess.run(
        [sys.executable, "-m", "hostile_report", str(place)],
        cwd=folder,
        env={"PYTHONPATH": str(SUPPORT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout.strip().splitlines()[-1])


ALL = "".join(f"def test_{action}_holds(): pass\n" for action in range(1, 22))
MARKED = "import pytest\n@pytest.mark.hostile(22)\ndef test_elsewhere(): pass\n"


def test_all_actions_held(tmp_path: Path) -> None:
    code, line = run(tmp_path, ALL + MARKED + "def test_no_action(): assert False\n")
    assert (code, line["actions"], line["escaped"], line["without_a_test"]) == (0, 22, 0, [])
    assert line["backends"] == list(sandbox_backends.AVAILABLE)
    named = set(sandbox_backends.AVAILABLE) | set(dict(line["backends_unavailable"]))  # type: ignore[call-overload]
    assert named == {"bwrap", "container", "runsc", "kubernetes"}


def test_an_escape_is_counted(tmp_path: Path) -> None:
    code, line = run(tmp_path, ALL + MARKED + "def test_3_planted(): assert False, 'out'\n")
    assert (code, line["actions"], line["escaped"]) == (1, 23, 1)


def test_a_skipped_action_is_not_a_held_one(tmp_path: Path) -> None:
    skipped = "@pytest.mark.skip\ndef test_3_skipped(): pass\n"
    code, line = run(tmp_path, ALL + MARKED + skipped)
    assert (code, line["escaped"]) == (1, 1)


def test_an_action_without_a_test_is_named(tmp_path: Path) -> None:
    code, line = run(tmp_path, ALL)
    assert (code, line["without_a_test"]) == (1, [22])
