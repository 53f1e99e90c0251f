"""Ignore rules decide as `git check-ignore` does, and in bounded time."""

import time
from pathlib import Path

import gitrepos
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wfhub_agent_runner.gitwork.gitignore import RuleFile, is_ignored, parse

parts = st.sampled_from([
    "a", "b", "ab", "*", "**", "***", "?", "a*", "*b", "a*b*", "a**b", "[ab]", "[!a]", "[a-c]x",
    "[]a]", "[^-a]", "[b-]", "[a", "[", "\\a", "\\*", "\\#", "a\\", "[[:alpha:]]", "[[:no:]]b",
])  # fmt: skip
patterns = st.builds(
    lambda bang, lead, body, tail: bang + lead + "/".join(body) + tail,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/", "**/"]),
    st.lists(parts, min_size=1, max_size=3),
    st.sampled_from(["", "", "/", "/**", " ", "\\ ", "\r", "/*"]),
)
texts = st.lists(st.one_of(patterns, st.sampled_from(["", "#a", " ", "/", "!"])), max_size=5).map(
    "\n".join
)
PATHS = [
    "/".join(path)
    for path in [
        ("a",), ("b",), ("ab",), ("a b",), ("cx",), ("*",), ("#",), ("-",), ("a ",), ("axb",),
        ("a", "a"), ("a", "b"), ("b", "a"), ("ab", "ab"), ("a", "b", "a"), ("b", "a", "b"),
        ("a", "b", "ab"), ("ab", "a", "b", "cx"),
    ]
]  # fmt: skip


def ours(files: dict[str, str], path: str) -> bool:
    """Folders first, as the walk in `changes` does."""
    whole = path.encode().split(b"/")
    rules: list[RuleFile] = []
    for depth in range(len(whole)):
        folder = b"/".join(whole[:depth]).decode()
        if folder in files:
            rules.append(parse(files[folder].encode(), depth))
        here, last = whole[: depth + 1], depth + 1 == len(whole)
        if is_ignored(rules, here, is_folder=not last):
            return True
    return False


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With every path of PATHS as a file, where it is not a folder of another."""
    top = tmp_path_factory.mktemp("ignore")
    gitrepos.git(top, "init", "-q")
    for path in PATHS:
        if not any(other.startswith(path + "/") for other in PATHS):
            gitrepos.write(top, {path: b""})
    return top


@settings(max_examples=150, deadline=None)
@given(top=texts, below=texts)
@example(top="a/**\n!a/b/", below="")
@example(top="*\n!*/\n!ab", below="!a")
def test_rules_decide_as_git_does(repo: Path, top: str, below: str) -> None:
    (repo / ".gitignore").write_text(top)
    (repo / "a" / ".gitignore").write_text(below)
    files = {"": top, "a": below}
    checked = [path for path in PATHS if (repo / path).is_file()]
    asked = "\0".join(checked).encode()
    command = ("check-ignore", "--no-index", "-z", "-v", "-n", "--stdin")
    out = gitrepos.git(repo, *command, stdin=asked, codes=(0, 1))  # 1: none is ignored
    fields = out.split("\0")
    found = {
        path: bool(source) and not pattern.startswith("!")
        for source, _, pattern, path in zip(*(fields[i::4] for i in range(4)), strict=False)
    }
    assert {path: ours(files, path) for path in checked} == {p: found[p] for p in checked}


def test_a_hostile_pattern_costs_no_time() -> None:
    rules = parse(b"*a" * 40 + b"*b\n" + b"**/a" * 20 + b"/b\n", 0)
    path = [b"a" * 255] + [b"a"] * 100
    started = time.thread_time()
    assert not is_ignored([rules], path, is_folder=False)
    assert not is_ignored([rules], path[:1], is_folder=False)
    assert time.thread_time() - started < 1.0
