"""A workflow through every real part: each task goes on from the commit of the one it needs."""

import json
from pathlib import Path

from .conftest import Stack, git

DOCUMENT = """
name: spelling
defaults:
  repo: {repo}
tasks:
  spell:
    agent: {{argv: [sh, -c, sed -i s/colour/color/ README.md]}}
    verify: [grep -qx color README.md]
  extend:
    needs: [spell]
    agent: {{argv: [sh, -c, "echo ${{{{ tasks.spell.outputs.commit }}}} >> README.md"]}}
    verify: [grep -qx color README.md]
  broken:
    needs: [spell]
    on_failure: continue
    agent: {{argv: ["true"]}}
  never:
    needs: [broken]
    agent: {{argv: ["true"]}}
"""


def test_results_are_built_upon(stack: Stack, repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "workflow.yaml"
    file.write_text(DOCUMENT.format(repo=repository))
    done = stack.wfhub("workflow", "submit", str(file), "--wait", "--json")
    assert done.returncode == 1, done.stderr
    tasks = {task["name"]: task for task in json.loads(done.stdout)["tasks"]}
    assert {name: (task["state"], task["reason"]) for name, task in tasks.items()} == {
        "spell": ("succeeded", ""),
        "extend": ("succeeded", ""),
        "broken": ("failed", "no-changes"),
        "never": ("cancelled", "parent-failed"),
    }
    spell, extend = tasks["spell"], tasks["extend"]
    assert git("rev-parse", f"{extend['branch']}^", cwd=repository) == spell["commit"]
    text = git("show", f"{extend['branch']}:README.md", cwd=repository)
    assert text.split() == ["color", spell["commit"]]
