"""What a CI file names of its own repository, as its system would read it. Pure.

GitLab: each value of a key `include`, wherever it stands (the file's own, `trigger:include`,
`spec:include`): a path, a mapping with `local`, or a list of such. A `project` or `component` with
a variable in it may be the repository itself. Of a path with wildcards or variables the text before
the first and after the last of them counts: whatever is between matches.
Actions (GitHub, Gitea, Forgejo): each `uses: ./folder`, with all in that folder, and what an
action's `runs` names beside it.
The agent may have written these files: the parser's events are read without recursion, tags
construct nothing (`!reference` is a tag like any other), and everything has a limit.
Raises: Unclear.
"""

import enum
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from wfhub_agent_runner.gitwork import limits

YAML_ENDS = (".yml", ".yaml")
WHY_CHARS_MAX = 100
ACTION_FILES = ("action.yml", "action.yaml")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # only its parser is used
_VARIABLE = re.compile(r"\$\[\[[^\]]*\]\]|\$\{[^}]*\}|\$\w+")
_OF_THE_ACTION = ("main", "pre", "post", "image", "pre-entrypoint", "entrypoint", "post-entrypoint")


class Unclear(Exception):
    """What it names cannot be told; says why."""


class System(enum.Enum):
    GITLAB = "gitlab"
    ACTIONS = "actions"


class Reference(NamedTuple):
    """Paths from the repository's top that begin and end so; without `end` the one path, and what
    is below it. `opened`: such a file is read for what it names itself."""

    begin: str
    end: str | None = None
    opened: bool = True

    def matches(self, path: str) -> bool:
        if self.end is None:
            return path == self.begin
        fits = len(path) >= len(self.begin) + len(self.end)
        return fits and path.startswith(self.begin) and path.endswith(self.end)


def named_by(content: bytes, path: str, system: System) -> set[Reference]:
    """`path`: of the file, which is what an action's own files are beside."""
    try:
        pairs = list(_pairs(_documents(content)))
    except (yaml.YAMLError, ValueError) as e:
        why = getattr(e, "problem", None) or e
        raise Unclear(f"is no YAML that can be read: {str(why)[:WHY_CHARS_MAX]!r}") from e
    if system is System.GITLAB:
        return {found for key, value in pairs if key == "include" for found in _included(value)}
    used = {found for key, value in pairs if key == "uses" for found in _used(value)}
    if posixpath.basename(path) in ACTION_FILES:
        used |= set(_run(pairs, posixpath.dirname(path)))
    return used


# --- YAML, as far as it is needed ---------------------------------------------------------------


@dataclass(eq=False)
class _Mapping:
    """Keys may come twice: each counts."""

    pairs: list[tuple["_Node", "_Node"]] = field(default_factory=list)


@dataclass(eq=False)
class _List:
    items: list["_Node"] = field(default_factory=list)


_REFERENCE = "!reference"  # what is at another place, of this or of an included file


@dataclass(eq=False)
class _Elsewhere(_List):
    """Tagged as a reference."""


_Node = str | _Mapping | _List
_Pair = tuple[_Node, _Node]


def _documents(content: bytes) -> list[_Node]:
    """Raises: Unclear, yaml.YAMLError, ValueError."""
    documents: list[_Node] = []
    anchors: dict[str, _Node] = {}
    open_: list[tuple[_Mapping | _List, list[_Node]]] = []  # with what it holds so far

    def place(node: _Node) -> None:
        (open_[-1][1] if open_ else documents).append(node)

    for event in yaml.parse(content, Loader=_LOADER):
        node: _Node
        match event:
            case yaml.AliasEvent():
                if event.anchor not in anchors:
                    raise Unclear("has an alias of nothing")
                place(anchors[event.anchor])
                continue
            case yaml.ScalarEvent():
                node = str(event.value)
                place(node)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                if len(open_) >= limits.CI_YAML_DEPTH_MAX:
                    raise Unclear(f"is nested deeper than {limits.CI_YAML_DEPTH_MAX}")
                if isinstance(event, yaml.MappingStartEvent):
                    node = _Mapping()
                else:
                    node = _Elsewhere() if event.tag == _REFERENCE else _List()
                place(node)
                open_.append((node, []))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                ended, held = open_.pop()
                if isinstance(ended, _Mapping):
                    ended.pairs = list(zip(held[::2], held[1::2], strict=True))
                else:
                    ended.items = held
                continue
            case _:
                continue
        if event.anchor is not None:
            anchors[event.anchor] = node
    return documents


def _pairs(documents: Sequence[_Node]) -> Iterator[_Pair]:
    """Of all mappings, each once however often it is named."""
    for node in _unfolded(documents):
        if isinstance(node, _Mapping):
            yield from node.pairs


def _unfolded(nodes: Iterable[_Node]) -> Iterator[_Node]:
    """These and all that is in them; a list or mapping once."""
    todo, seen = list(nodes), set[int]()
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, str) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, _List):
            todo += node.items
        else:
            todo += [each for pair in node.pairs for each in pair]


# --- GitLab -------------------------------------------------------------------------------------


def _included(value: _Node) -> Iterator[Reference]:
    for entry in _entries(value):
        match entry:
            case str():
                if entry and "://" not in entry:
                    yield _path(entry)
            case _Mapping():
                yield from _entry(dict(_merged(entry)))


def _entries(value: _Node) -> Iterator[str | _Mapping]:
    """Lists in lists are one list, as GitLab flattens them."""
    todo, seen = [value], set[int]()
    while todo:
        node = todo.pop()
        if isinstance(node, _Elsewhere):
            raise Unclear("includes what a !reference stands for")
        if not isinstance(node, _List):
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            todo += node.items


def _merged(entry: _Mapping) -> Iterator[tuple[str, _Node]]:
    """With what `<<` brings; the entry's own come last, and so count."""
    brought = [value for key, value in entry.pairs if key == "<<"]
    for node in _unfolded(brought):
        if isinstance(node, _Mapping):
            yield from ((key, value) for key, value in node.pairs if isinstance(key, str))
    yield from ((key, value) for key, value in entry.pairs if isinstance(key, str))


def _entry(entry: dict[str, _Node]) -> Iterator[Reference]:
    if "local" in entry:
        yield from map(_path, _texts(entry["local"]))
    where = {name: _texts(entry[name]) for name in ("project", "ref", "component") if name in entry}
    if not any(_VARIABLE.search(text) for texts in where.values() for text in texts):
        return  # another repository, or this one at a commit that is there already
    if "file" in entry:
        yield from map(_path, _texts(entry["file"]))
    if "component" in where:
        yield Reference("templates/", "")


def _texts(value: _Node) -> list[str]:
    texts = list(_entries(value))
    if not all(isinstance(text, str) for text in texts):
        raise Unclear("includes something that is no path")
    return [text for text in texts if isinstance(text, str)]


def _path(text: str) -> Reference:
    """GitLab includes files with these ends alone: so a path that ends in a variable has one."""
    parts = _VARIABLE.sub("*", text.strip()).lstrip("/").split("*")
    if len(parts) == 1:
        return Reference(_tidy(parts[0]))
    return Reference(parts[0], parts[-1])


def _tidy(path: str) -> str:
    return posixpath.normpath(path).lstrip("/")


# --- Actions ------------------------------------------------------------------------------------


def _used(value: _Node) -> Iterator[Reference]:
    if not isinstance(value, str) or not value.startswith("./"):
        return
    path = _tidy(value)
    if path.endswith(YAML_ENDS):
        yield Reference(path)  # a workflow
        return
    folder = "" if path == "." else f"{path}/"
    yield from (Reference(folder + name) for name in ACTION_FILES)
    if folder:  # the top's would be everything: what its action runs is named by `runs`
        yield Reference(path, opened=False)


def _run(pairs: Iterable[_Pair], folder: str) -> Iterator[Reference]:
    for key, value in pairs:
        if key in _OF_THE_ACTION and isinstance(value, str) and "://" not in value:
            yield Reference(_tidy(posixpath.join(folder, value)), opened=False)
