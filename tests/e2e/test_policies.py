"""A project's policies, from `wfhub project` to what is published and proven."""

import base64
import json
import secrets
from pathlib import Path
from typing import Any

from .conftest import Stack, commit, eventually, git

WORKFLOW = ".github/workflows/evil.yml"
CHANGED = [WORKFLOW, "ci/main.yml", "shared/jobs.yml"]
# 0 0: it may be traced; -1 1: EPERM.
TRACE = """import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
print(libc.ptrace(0, 0, None, None), ctypes.get_errno())
"""
AGENT = f"""sh -c '
mkdir -p .github/workflows shared
echo "on: push" > {WORKFLOW}
echo "script: steal" > ci/main.yml
echo "script: steal" > shared/jobs.yml
python3 trace.py > traced.txt'
"""
VERIFY = 'test "$(python3 trace.py)" = "$(cat traced.txt)"'


def typed(stack: Stack, *words: str) -> str:
    done = stack.wfhub(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def task_of(stack: Stack, task: str, state: str) -> dict[str, Any]:
    """As the API has it, once it is in that state."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = json.loads(typed(stack, "status", task, "--json"))
        assert found["state"] in (state, "ready", "running", "sealing", "publishing"), found
        return found if found["state"] == state else None

    found = eventually(look, within_s=90)
    assert isinstance(found, dict)
    return found


def submitted(stack: Stack, repository: Path, *words: str) -> str:
    (repository / "ci").mkdir()
    (repository / "ci" / "main.yml").write_text("include: shared/*.yml\n")
    (repository / ".gitlab-ci.yml").symlink_to("ci/main.yml")
    (repository / "trace.py").write_text(TRACE)
    commit(repository, "CI")
    asked = ("--repo", str(repository), "--agent-cmd", AGENT, "--verify", VERIFY, *words)
    told = typed(stack, "run", "--detach", "--json", *asked)
    return str(json.loads(told.strip().splitlines()[-1])["task_id"])


def proven(stack: Stack, proof_id: str, file: Path) -> tuple[dict[str, Any], str]:
    """What the runner observed, and what verifying it says."""
    typed(stack, "proof", "trust")
    typed(stack, "proof", "export", proof_id, "-o", str(file))
    payload = base64.b64decode(json.loads(file.read_text())["envelope"]["payload"])
    observed: dict[str, Any] = json.loads(payload)["predicate"]["observed"]["runner"]
    return observed, typed(stack, "proof", "verify", str(file))


def test_changed_ci_files_are_published_once_a_person_has_seen_which(
    stack: Stack, repository: Path, tmp_path: Path
) -> None:
    task = submitted(stack, repository)
    found = task_of(stack, task, "review")
    assert found["reason"] == "ci-files-changed"
    assert repr(WORKFLOW) in found["message"]
    assert "'ci/main.yml'" in found["message"], "the link leads there"
    assert "'shared/jobs.yml'" in found["message"], "and includes that"
    (attempt,) = found["attempts"]
    assert attempt["ci_files"] == CHANGED
    assert "ci-files-changed" in typed(stack, "status", task)
    refs = git("for-each-ref", "--format=%(refname)", cwd=repository)
    assert refs == "refs/heads/main", "CI would run it by now"

    typed(stack, "approve", task)
    done = task_of(stack, task, "succeeded")
    assert git("show", f"{done['branch']}:traced.txt", cwd=repository) == "-1 1"
    observed, verified = proven(stack, done["proof_id"], tmp_path / "proof.json")
    assert observed["ci_files"] == CHANGED
    assert observed["sandbox"]["debuggers"] is False
    assert "CI files were changed or deleted: 3" in verified


def test_a_project_may_allow_both(stack: Stack, repository: Path, tmp_path: Path) -> None:
    name = f"lab-{secrets.token_hex(4)}"
    typed(stack, "project", "create", name)
    words = ("--ci-files", "allow", "--debuggers", "allow")
    shown = typed(stack, "project", "update", name, *words)
    assert "changed CI files are published unseen" in shown
    task = submitted(stack, repository, "--project", name)
    done = task_of(stack, task, "succeeded")
    assert git("show", f"{done['branch']}:traced.txt", cwd=repository) == "0 0"
    observed, verified = proven(stack, done["proof_id"], tmp_path / "proof.json")
    assert observed["ci_files_total"] == 3
    assert observed["sandbox"]["debuggers"] is True
    assert "CI files were changed or deleted: 3" in verified
