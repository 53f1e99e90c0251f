"""One run of the demo: repository, stack, task, proof; then what it came to.

Raises: CannotPrepare, CommandFailed.
"""

import io
from collections.abc import Mapping

from dulwich.objects import Commit, ObjectID
from dulwich.patch import write_tree_diff
from dulwich.repo import Repo

from wfhub_local.demo import commands, modes, report, sources
from wfhub_local.demo.commands import Shell, say
from wfhub_local.demo.folder import Folder
from wfhub_local.demo.modes import Mode
from wfhub_local.demo.turns import PROMPT, TESTS

TITLE = "Detect the base of each number anew"


def run(folder: Folder, mode_name: str, env: Mapping[str, str]) -> report.Outcome:
    folder.prepare()
    folder.make_config()
    base = folder.make_repository()
    with modes.opened(mode_name, env, folder.path) as mode:
        say(
            f"mode {mode.name}: the model's words are {mode.words}.",
            f"repository {folder.repository}, commit {base}:",
            f"  {sources.DEFECTIVE.name} {sources.DEFECTIVE.version} as released, and the test "
            f"that {sources.REPAIRED.version} added with the repair",
        )
        with commands.stack(folder, env, mode.env) as shell:
            task = _run_task(shell, folder, mode)
            status = shell.wfhub_json("status", task["task_id"])
            if task["proof_id"]:
                folder.proof.unlink(missing_ok=True)
                shell.wfhub("proof", "trust")
                shell.wfhub("proof", "export", task["proof_id"], f"--output={folder.proof}")
        verified = None
        if task["proof_id"]:  # the stack is gone: this needs the file and the trusted key alone
            offline = Shell(commands.shell_env(folder, env))
            verified = offline.wfhub_json("proof", "verify", str(folder.proof))
        published = published_refs(folder, task["task_id"])
        diff = diff_of(folder, base, task["commit"]) if published else ""
        return report.Outcome(mode, task, status, verified, published, diff)


def _run_task(shell: Shell, folder: Folder, mode: Mode) -> dict[str, str]:
    return shell.wfhub_json(
        "run",
        f"--repo={folder.repository}",
        f"--prompt=@{PROMPT}",
        f"--title={TITLE}",
        "--agent=builtin",
        f"--verify={TESTS}",
        "--verify-base",
        f"--timeout-s={mode.run_s}",
    )


def published_refs(folder: Folder, task_id: str) -> dict[str, str]:
    """The refs in the repository that name the task."""
    with Repo(str(folder.repository)) as repo:
        refs = {ref.decode(): commit.decode() for ref, commit in repo.get_refs().items()}
    return {ref: commit for ref, commit in refs.items() if task_id in ref}


def diff_of(folder: Folder, base: str, commit: str) -> str:
    out = io.BytesIO()
    with Repo(str(folder.repository)) as repo:
        before, after = (repo[ObjectID(name.encode())] for name in (base, commit))
        assert isinstance(before, Commit) and isinstance(after, Commit)  # noqa: PT018 - types
        write_tree_diff(out, repo.object_store, before.tree, after.tree)
    return out.getvalue().decode(errors="replace")
