"""Which CI files a result changes, links and submodules counted, in trees made by hand."""

from collections.abc import Mapping

import pytest
from dulwich.object_store import MemoryObjectStore
from dulwich.objects import Blob, ObjectID, Tree
from wfhub_agent_runner.gitwork import ci_changes, walk

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
    store = MemoryObjectStore()
    old, new = tree(store, before), tree(store, after)
    return ci_changes.changed(store, new, list(walk.deltas(store, old, new)))


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
