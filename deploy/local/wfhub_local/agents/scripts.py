"""What a model says in the self-test of each agent, in that agent's own tools. Scripted: no model
said any of this. make_cassette.py plays it once to the real program and keeps the exchanges.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wfhub_local.agents.task import CHECK, DEFECT, REPAIR

FILE = "/workspace/total.sh"
SED = f"sed -i 's/^{DEFECT}$/{REPAIR}/' total.sh"
PATCH = f"""\
*** Begin Patch
*** Update File: total.sh
@@
-{DEFECT}
+{REPAIR}
*** End Patch
"""
EDIT_BLOCK = f"""\
Each number takes the place of the sum. It has to be added.

total.sh
```sh
<<<<<<< SEARCH
{DEFECT}
=======
{REPAIR}
>>>>>>> REPLACE
```
"""
LOOK, SEEN, AGAIN = "I run the check first.", "I read the script.", "Now the check again."
FOUND = "Each number takes the place of the sum. It has to be added."
DONE = "total.sh printed its last argument; now it adds them up. The check passes."


@dataclass(frozen=True)
class Turn:
    """What is said, and the one tool that is called with it ("": none)."""

    says: str
    tool: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _shell(says: str, tool: str, command: str, **more: Any) -> Turn:
    return Turn(says, tool, {"command": command, **more})


def _qwen_shell(says: str) -> Turn:
    return _shell(says, "run_shell_command", CHECK, description=says, is_background=False)


# What tool results have that changes from run to run, beside what the gateway masks: as in the
# header of a cassette.
VOLATILE: Mapping[str, list[list[str]]] = {
    "codex": [["Chunk ID: [0-9a-f]+", "Chunk ID: <id>"]],
    "gemini-cli": [[r"Process Group PGID: \S+", "Process Group PGID: <pid>"]],
    "qwen-code": [[r"Process Group PGID: \S+", "Process Group PGID: <pid>"]],
}

SCRIPTS: Mapping[str, tuple[Turn, ...]] = {
    "aider": (Turn(EDIT_BLOCK),),
    "builtin": (
        _shell(LOOK, "run_command", CHECK),
        Turn(SEEN, "read_file", {"path": "total.sh"}),
        Turn(FOUND, "patch_file", {"path": "total.sh", "search": DEFECT, "replace": REPAIR}),
        _shell(AGAIN, "run_command", CHECK),
        Turn("", "finish", {"summary": DONE}),
    ),
    "claude-code": (
        _shell(LOOK, "Bash", CHECK, description=LOOK),
        Turn(SEEN, "Read", {"file_path": FILE}),
        Turn(FOUND, "Edit", {"file_path": FILE, "old_string": DEFECT, "new_string": REPAIR}),
        _shell(AGAIN, "Bash", CHECK, description=AGAIN),
        Turn(DONE),
    ),
    "codex": (
        Turn(LOOK, "exec_command", {"cmd": CHECK}),
        Turn(SEEN, "exec_command", {"cmd": "cat total.sh"}),
        Turn(FOUND, "exec_command", {"cmd": SED}),
        Turn(AGAIN, "exec_command", {"cmd": CHECK}),
        Turn(DONE),
    ),
    "gemini-cli": (
        _shell(LOOK, "run_shell_command", CHECK, description=LOOK),
        Turn(SEEN, "read_file", {"file_path": FILE}),
        Turn(
            FOUND,
            "replace",
            {
                "file_path": FILE,
                "instruction": FOUND,
                "old_string": DEFECT,
                "new_string": REPAIR,
            },
        ),
        _shell(AGAIN, "run_shell_command", CHECK, description=AGAIN),
        Turn(DONE),
    ),
    "mini-swe-agent": (
        _shell(LOOK, "bash", CHECK),
        _shell(SEEN, "bash", "cat total.sh"),
        _shell(FOUND, "bash", f"{SED} && {CHECK}"),
        _shell(DONE, "bash", "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"),
    ),
    "opencode": (
        _shell(LOOK, "bash", CHECK, description=LOOK),
        Turn(SEEN, "read", {"filePath": FILE}),
        Turn(FOUND, "edit", {"filePath": FILE, "oldString": DEFECT, "newString": REPAIR}),
        _shell(AGAIN, "bash", CHECK, description=AGAIN),
        Turn(DONE),
    ),
    "qwen-code": (
        _qwen_shell(LOOK),
        Turn(SEEN, "read_file", {"file_path": FILE}),
        Turn(FOUND, "edit", {"file_path": FILE, "old_string": DEFECT, "new_string": REPAIR}),
        _qwen_shell(AGAIN),
        Turn(DONE),
    ),
}
