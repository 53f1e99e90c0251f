"""Imports point inward: service → common, client → common, never service → service."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "wfhub_common": set(),
    "wfhub_client": {"wfhub_common"},
    "wfhub_api": {"wfhub_common"},
    "wfhub_scheduler": {"wfhub_common"},
    "wfhub_agent_runner": {"wfhub_common"},
    "wfhub_proof_store": {"wfhub_common"},
    "wfhub_llm_gateway": {"wfhub_common"},
    "wfhub_admin": {"wfhub_common"},
    "wfhub_local": {"wfhub_common", "wfhub_client", "wfhub_admin"},
}
FOLDERS = {
    folder.name: folder
    for pattern in ("services/*/wfhub_*", "libs/*/wfhub_*", "deploy/*/wfhub_*")
    for folder in ROOT.glob(pattern)
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    files = list(FOLDERS[package].rglob("*.py"))
    assert files
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imported(path)
        if name.startswith("wfhub_") and name != package and name not in ALLOWED[package]
    }
    assert not wrong


EDGES = {"main.py", "settings.py", "cli.py", "__main__.py", "privileges.py"}


def reads_environment(path: Path) -> bool:
    """`os.environ` anywhere but as the one argument of `Settings.from_env`, or in a program."""
    text = path.read_text()
    if path.name in EDGES or 'if __name__ == "__main__"' in text:
        return False
    tree = ast.parse(text)
    uses = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr == "environ"]
    handed_on = [
        argument
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "from_env"
        for argument in call.args
    ]
    return any(use not in handed_on for use in uses)


WRITES_ONLY = "libs/common/wfhub_common/light.py"  # what a library reads


def test_the_environment_is_read_at_the_edge_only() -> None:
    files = [path for folder in FOLDERS.values() for path in folder.rglob("*.py")]
    assert [str(p.relative_to(ROOT)) for p in files if reads_environment(p)] == [WRITES_ONLY]
