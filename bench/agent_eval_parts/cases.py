"""A defect as a task: its repository, its tests out of the agent's reach, its prompt.

`folder`/repositories/NAME is what the task works on. The tests that decide lie in the toolchain
(`folder`/toolchain/eval), which sandboxes may read only; the repository has the same, to look at.
Raises: CannotPrepare.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from wfhub_local.demo import repository, sources, toolchain
from wfhub_local.demo.sources import SourceFile

from agent_eval_parts.defects import Defect

LOCK = Path(__file__).parents[2] / "requirements" / "eval.lock"
CHECK = Path(__file__).with_name("check.py")
AT = 1_700_000_000  # Unix time of each commit: the ids are the same everywhere
PROMPT = """\
{symptom}

Find the cause and repair it, changing as little as that needs. Leave the tests as they are. This
runs the tests that decide (they fail now), and those that must go on passing:

    {check}
"""


@dataclass(frozen=True)
class Case:
    defect: Defect
    repository: Path
    prompt: Path
    check: str  # the command that decides


def prepare(defect: Defect, folder: Path) -> Case:
    tools = toolchain.make(folder / "toolchain", LOCK)
    files, repaired = (
        sources.files_of(
            sources.fetch(release, folder / "downloads", python=toolchain.python_of(tools))
        )
        for release in (defect.defective, defect.repaired)
    )
    tests = _tests_of(defect, repaired)
    repo = folder / "repositories" / defect.name
    title = f"{defect.defective.name} {defect.defective.version}"
    repository.write(
        repo,
        (files, f"{title}, as released\n".encode(), AT),
        ({**files, **tests}, f"Take the tests of {defect.repaired.version}\n".encode(), AT + 1),
    )
    checks = tools / "eval"
    _lay(checks / defect.name, tests)
    decides = {"targets": defect.targets, "other_failures": defect.other_failures}
    (checks / f"{defect.name}.json").write_text(json.dumps(decides))
    shutil.copy(CHECK, checks / CHECK.name)
    check = f"python -B {checks / CHECK.name} {defect.name}"
    prompt = folder / "prompts" / f"{defect.name}.md"
    prompt.parent.mkdir(exist_ok=True)
    prompt.write_text(PROMPT.format(symptom=defect.symptom, check=check))
    return Case(defect, repo, prompt, check)


def _tests_of(defect: Defect, files: dict[str, SourceFile]) -> dict[str, SourceFile]:
    return {
        path: file
        for path, file in files.items()
        if (path == defect.tests or path.startswith(f"{defect.tests}/"))
        and "__pycache__" not in path
    }


def _lay(folder: Path, files: dict[str, SourceFile]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for path, file in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
