"""Which CI files a result changes, links and submodules counted, in trees made by hand."""

from collections.abc import Mapping

import pytest
from dulwich.object_store import MemoryObjectStore
from dulwich.objects import Blob, ObjectID, Tree
from wfhub_agent_runner.gitwork import ci_changes, limits, walk

Made = str | bytes | tuple[str, str] | Mapping[str, "Made"]
WORKFLOWS = {"workflows": {"ci.yml": "on: push"}}
COMMIT = "1" * 40


def tree(store: MemoryObjectStore, made: Mapping[str, Made]) -> ObjectID:
    """A text is a file, ("link", target) a link, ("module", commit) a submodule."""
    found = Tree()
    for name, entry in made.items():
        match entry:
            case ("link", str(target)):
                blob = Blob.from_string(target.encode())
                store.add_object(blob)
                found.add(name.encode(), walk.LINK, blob.id)
            case ("module", str(commit)):
                found.add(name.encode(), walk.GITLINK, ObjectID(commit.encode()))
            case str(text):
                blob = Blob.from_string(text.encode())
                store.add_object(blob)
                found.add(name.encode(), walk.FILE, blob.id)
            case _:
                assert isinstance(entry, Mapping)
                found.add(name.encode(), walk.DIR, tree(store, entry))
    store.add_object(found)
    return found.id


def changed(before: Mapping[str, Made], after: Mapping[str, Made]) -> list[str]:
    found = looked_at(before, after)
    assert not found.unclear
    return found.paths


def looked_at(before: Mapping[str, Made], after: Mapping[str, Made]) -> ci_changes.Changed:
    store = MemoryObjectStore()
    old, new = tree(store, before), tree(store, after)
    return ci_changes.changed(store, old, new, list(walk.deltas(store, old, new)))


def test_what_is_added_modified_and_deleted_counts() -> None:
    assert changed({}, {".gitlab-ci.yml": "a", "x": "y"}) == [".gitlab-ci.yml"]
    assert changed({".gitlab-ci.yml": "a"}, {".gitlab-ci.yml": "b"}) == [".gitlab-ci.yml"]
    assert changed({".github": WORKFLOWS, "x": "y"}, {"x": "z"}) == [".github/workflows/ci.yml"]


def test_a_rename_counts_on_both_sides() -> None:
    away = changed({".circleci": {"config.yml": "a"}}, {"old": {"config.yml": "a"}})
    back = changed({"old": {"config.yml": "a"}}, {".circleci": {"config.yml": "a"}})
    assert away == back == [".circleci/config.yml"]


def test_letter_case_does_not_count() -> None:
    assert changed({}, {".GitHub": {"Workflows": {"a.yml": "x"}}}) == [".GitHub/Workflows/a.yml"]


@pytest.mark.parametrize("where", [".github", ".circleci"])
def test_a_submodule_where_a_ci_folder_is_counts(where: str) -> None:
    assert changed({}, {where: ("module", COMMIT)}) == [where]
    assert changed({where: ("module", COMMIT)}, {}) == [where]
    assert changed({where: ("module", COMMIT)}, {where: ("module", "2" * 40)}) == [where]


def test_a_folder_that_becomes_a_link_counts_and_so_does_what_the_link_leads_to() -> None:
    before: dict[str, Made] = {".github": {"workflows": {"ci.yml": "a"}}, "ci": {}}
    after: dict[str, Made] = {
        ".github": {"workflows": ("link", "../ci")},
        "ci": {"evil.yml": "b"},
    }
    assert changed(before, after) == [
        ".github/workflows",
        ".github/workflows/ci.yml",
        "ci/evil.yml",
    ]


@pytest.mark.parametrize(
    "target", ["ci/main.yml", "./ci//main.yml", "ci/../ci/main.yml", "other/main.yml"]
)
def test_a_file_that_an_unchanged_link_leads_to_is_a_ci_file(target: str) -> None:
    link: dict[str, Made] = {".gitlab-ci.yml": ("link", target), "other": ("link", "ci")}
    before = {**link, "ci": {"main.yml": "a"}, "x": "y"}
    after = {**link, "ci": {"main.yml": "b"}, "x": "z"}
    assert changed(before, after) == ["ci/main.yml"]


def test_a_link_on_the_way_is_a_ci_file_too() -> None:
    before: dict[str, Made] = {"Jenkinsfile": ("link", "now"), "now": ("link", "a"), "a": "x"}
    assert changed(before, {**before, "now": ("link", "b"), "b": "evil"}) == ["b", "now"]


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../outside", ".travis.yml", "loop", "", "x" * 9999]
)
def test_a_link_that_leads_nowhere_leads_to_no_ci_file(target: str) -> None:
    base: dict[str, Made] = {".travis.yml": ("link", target), "loop": ("link", "loop"), "a": "x"}
    assert changed(base, {**base, "a": "y"}) == ["a"] * (target == "a")


def test_links_elsewhere_are_not_looked_at() -> None:
    base: dict[str, Made] = {"docs": {"a": ("link", "../src/b")}, "src": {"b": "x"}}
    assert changed(base, {**base, "src": {"b": "y"}}) == []


def test_nothing_changed_is_no_ci_file() -> None:
    assert changed({".github": WORKFLOWS}, {".github": WORKFLOWS}) == []


def edited(base: Mapping[str, Made], path: str) -> dict[str, Made]:
    """`base` with another text in the file at that path."""
    name, _, rest = path.partition("/")
    below = base.get(name, {})
    if not rest:
        return {**base, name: f"{below if isinstance(below, str) else ''}# edited\n"}
    assert isinstance(below, Mapping)
    return {**base, name: edited(below, rest)}


INCLUDING: dict[str, Made] = {
    ".gitlab-ci.yml": "include: [/ci/a.yml, {local: 'jobs/*.yml'}]\n",
    "ci": {"a.yml": "include: more/b.yml\n", "other.yml": "x: y\n"},
    "more": {"b.yml": "job: {trigger: {include: more/child.yml}}\n", "child.yml": "x: y\n"},
    "jobs": {"one.yml": "include: deep/c.yml\n", "readme.md": "x"},
    "deep": {"c.yml": "x: y\n"},
    "src": {"a.yml": "x: y\n"},
}


@pytest.mark.parametrize(
    "path",
    ["ci/a.yml", "more/b.yml", "more/child.yml", "jobs/one.yml", "jobs/new.yml", "deep/c.yml"],
)
def test_what_gitlab_includes_is_a_ci_file_whatever_its_name(path: str) -> None:
    assert changed(INCLUDING, edited(INCLUDING, path)) == [path]


@pytest.mark.parametrize("path", ["ci/other.yml", "jobs/readme.md", "src/a.yml", "README"])
def test_what_no_ci_file_brings_in_is_none(path: str) -> None:
    assert changed(INCLUDING, edited(INCLUDING, path)) == []


def test_what_is_included_no_more_or_only_now_is_a_ci_file() -> None:
    without = {**INCLUDING, ".gitlab-ci.yml": "x: y\n"}
    edit = edited(edited(without, "ci/a.yml"), "more/b.yml")
    assert changed(INCLUDING, edit) == [".gitlab-ci.yml", "ci/a.yml", "more/b.yml"]
    assert changed(edit, INCLUDING) == [".gitlab-ci.yml", "ci/a.yml", "more/b.yml"]
    gone = {**INCLUDING, "ci": {"other.yml": "x: y\n"}}
    assert changed(INCLUDING, gone) == ["ci/a.yml"]


def test_a_folder_above_what_is_included_that_becomes_something_else_counts() -> None:
    for other in (("link", "src"), ("module", COMMIT)):
        assert "deep" in changed(INCLUDING, {**INCLUDING, "deep": other})
        assert "jobs" in changed(INCLUDING, {**INCLUDING, "jobs": other})


def test_an_included_link_leads_on() -> None:
    base: dict[str, Made] = {
        ".gitlab-ci.yml": ("link", "now/main.yml"),
        "now": ("link", "v1"),
        "v1": {"main.yml": "include: ci/a.yml\n"},
        "ci": {"a.yml": ("link", "../real/a.yml")},
        "real": {"a.yml": "include: b.yml\n"},
        "b.yml": "x: y\n",
    }
    for path in ("v1/main.yml", "real/a.yml", "b.yml"):
        assert changed(base, edited(base, path)) == [path]


TOOLS: dict[str, Made] = {
    "act": {"action.yaml": "runs: {steps: [{uses: ./tools/two}]}\n", "run.sh": "x"}
}
ACTING: dict[str, Made] = {
    ".gitea": {"workflows": {"ci.yml": "jobs: {a: {steps: [{uses: ./}, {uses: ./tools/act}]}}\n"}},
    "action.yml": "runs: {using: node20, main: dist/index.js}\n",
    "dist": {"index.js": "x", "other.js": "x"},
    "tools": TOOLS,
}


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        ("dist/index.js", True),
        ("dist/other.js", False),
        ("tools/act/run.sh", True),
        ("tools/run.sh", False),
        ("src/main.py", False),
    ],
)
def test_what_local_actions_run_counts(path: str, counts: bool) -> None:
    base = {**ACTING, "src": {}}
    assert changed(base, edited(base, path)) == [path] * counts


def test_an_action_that_another_uses_counts() -> None:
    base = {**ACTING, "tools": {**TOOLS, "two": {"run.sh": "x"}}}
    assert changed(base, edited(base, "tools/two/run.sh")) == ["tools/two/run.sh"]


def test_files_that_include_each_other_end() -> None:
    base: dict[str, Made] = {
        ".gitlab-ci.yml": "include: a.yml\n",
        "a.yml": "include: [b.yml, a.yml]\n",
        "b.yml": "include: [a.yml, .gitlab-ci.yml]\n",
        "x": "y",
    }
    assert changed(base, edited(base, "b.yml")) == ["b.yml"]
    assert changed(base, edited(base, "x")) == []


@pytest.mark.parametrize(
    "files",
    [
        {".gitlab-ci.yml": "a: [b"},
        {".gitlab-ci.yml": "include: ci.yml", "ci.yml": "a: *b"},
        {".gitlab-ci.yml": "include: !reference [.a, b]"},
        {".github": {"workflows": {"ci.yml": "\t- no"}}},
        {".gitlab-ci.yml": "#" * (limits.CI_BYTES_READ_MAX + 1)},
        {".gitlab-ci.yml": f"include: [{', '.join(f'{n}.yml' for n in range(3000))}]"},
        {".gitlab-ci.yml": f"include: [{', '.join(f'{n}/*.yml' for n in range(300))}]"},
        {
            ".gitlab-ci.yml": "include: 0.yml",
            **{f"{n}.yml": f"include: {n + 1}.yml" for n in range(200)},
        },
        {
            ".gitlab-ci.yml": "include: '*.yml'",
            "many": {f"{n}": "" for n in range(limits.CI_LOOKED_AT_MAX + 1)},
        },
        {".gitlab": {f"{n}.yml": f"x: {n}" for n in range(limits.CI_FILES_READ_MAX + 1)}},
    ],
    ids=[
        *("yaml", "included-yaml", "reference", "workflow"),
        *("bytes", "named", "wildcards", "deep", "looked-at", "files"),
    ],
)
def test_where_nobody_can_tell_what_is_brought_in_that_is_said(files: dict[str, Made]) -> None:
    for before, after in (({**files, "x": "y"}, {**files, "x": "z"}), ({}, files)):
        assert looked_at(before, after).unclear.isprintable()
        assert looked_at(before, after).unclear
    assert not looked_at(files, files).unclear, "nothing is changed"
