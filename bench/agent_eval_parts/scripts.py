"""Sessions that no model said, to try the evaluation itself: `repair` must be scored as solved,
`idle` as not solved.

`repair` brings the repaired release's code in patches, as a model that knew the answer would.
"""

import difflib
from pathlib import Path

from wfhub_local.demo import sources, toolchain
from wfhub_local.demo.turns import Turn

from agent_eval_parts.cases import Case

PATCHES_MAX = 30
CONTEXT_LINES_MAX = 60


def idle(_case: Case, _folder: Path) -> list[Turn]:
    return [Turn("", "finish", {"summary": "Nothing was done."})]


def repair(case: Case, folder: Path) -> list[Turn]:
    python = toolchain.python_of(folder / "toolchain")
    before, after = (
        sources.files_of(sources.fetch(release, folder / "downloads", python=python))
        for release in (case.defect.defective, case.defect.repaired)
    )
    # Only whether they pass: what they print names the workspace, which is elsewhere inside.
    command = f"{case.check} >/dev/null 2>&1 && echo passed || echo failed"
    run = Turn("The tests that decide.", "run_command", {"command": command})
    patches = [
        Turn("", "patch_file", {"path": path, "search": search, "replace": replace})
        for path in sorted(set(before) & set(after))
        if path.endswith(".py") and not _is_test(path) and before[path] != after[path]
        for search, replace in hunks(_text(before[path]), _text(after[path]))
    ]
    assert len(patches) <= PATCHES_MAX, f"{case.defect.name}: {len(patches)} patches"
    end = Turn(
        "", "finish", {"summary": f"As in {case.defect.repaired.version}; the check passes."}
    )
    return [run, *patches, run, end]


def hunks(old: str, new: str) -> list[tuple[str, str]]:
    """Replacements that turn `old` into `new`, one after another; each searches for a text that is
    there exactly once by then."""
    olds, news = old.splitlines(keepends=True), new.splitlines(keepends=True)
    matcher = difflib.SequenceMatcher(None, olds, news, autojunk=False)
    changes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    found, now = [], old
    for _, i1, i2, j1, j2 in reversed(changes):  # from the end: what comes before is still `old`
        for context in range(1, CONTEXT_LINES_MAX):
            start, tail = max(0, i1 - context), olds[i2 : i2 + context]
            rest = now[len("".join(olds[:i2])) :]
            tail_text = rest[: len("".join(tail))]
            head = "".join(olds[start:i1])
            search = head + "".join(olds[i1:i2]) + tail_text
            if now.count(search) == 1:
                replace = head + "".join(news[j1:j2]) + tail_text
                now = now.replace(search, replace)
                found.append((search, replace))
                break
        else:
            raise AssertionError("no text around the change is there only once")
    assert now == new
    return found


def _is_test(path: str) -> bool:
    return "test" in path or path == "setup.py" or path.startswith(("docs/", "examples/"))


def _text(file: sources.SourceFile) -> str:
    return file.content.decode()
