"""The rules of `.gitignore`, matched without backtracking.

dulwich turns a pattern into one regular expression, and a hostile pattern (`*a*a*a*…b`) then holds
the interpreter for hours, heartbeats included. Here a path component is matched by atomic groups
(each chunk between stars at its first place, which is enough for globs) and `**` by a table, so
matching is at worst quadratic in the lengths.
Shape: a rule matches a path relative to its file's folder, as a list of components in bytes.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from wfhub_agent_runner.gitwork import limits

_DOUBLE_STAR = None  # a component that stands for any number of components
_POSIX = {
    b"alpha": (*range(65, 91), *range(97, 123)),
    b"upper": range(65, 91),
    b"lower": range(97, 123),
    b"digit": range(48, 58),
    b"space": b" \t\n\r\f\v",
    b"blank": b" \t",
    b"cntrl": (*range(32), 127),
    b"graph": range(33, 127),
    b"print": range(32, 127),
    b"punct": b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    b"xdigit": b"0123456789abcdefABCDEF",
    b"alnum": (*range(48, 58), *range(65, 91), *range(97, 123)),
}


@dataclass(frozen=True)
class Rule:
    excludes: bool
    folders_only: bool
    anchored: bool  # False: `components` has one item, matched against the last component
    components: tuple[re.Pattern[bytes] | None, ...]

    def matches(self, path: Sequence[bytes], *, is_folder: bool) -> bool:
        if self.folders_only and not is_folder:
            return False
        if not self.anchored:
            pattern = self.components[0]
            return pattern is _DOUBLE_STAR or pattern.fullmatch(path[-1]) is not None
        return _matches(self.components, path)


@dataclass(frozen=True)
class RuleFile:
    depth: int  # components of the folder that holds it
    rules: tuple[Rule, ...]


def is_ignored(files: Sequence[RuleFile], path: Sequence[bytes], *, is_folder: bool) -> bool:
    """`files`: from the top folder down to the path's own. The last matching rule of the deepest
    file that has one decides. That a parent folder is excluded is the caller's to know."""
    for file in reversed(files):
        inner = path[file.depth :]
        for rule in reversed(file.rules):
            if rule.matches(inner, is_folder=is_folder):
                return rule.excludes
    return False


def parse(content: bytes, depth: int) -> RuleFile:
    """Lines beyond the limits are left out; a pattern git cannot match is left out too."""
    text = content[: limits.GITIGNORE_BYTES_MAX].removeprefix(b"\xef\xbb\xbf")
    lines = text.split(b"\n")[: limits.GITIGNORE_RULES_MAX]
    return RuleFile(depth, tuple(rule for line in lines if (rule := _rule(line)) is not None))


def _rule(line: bytes) -> Rule | None:
    line = _without_trailing_spaces(line.removesuffix(b"\r"))
    if not line or line.startswith(b"#"):
        return None
    excludes = not line.startswith(b"!")
    pattern = line if excludes else line[1:]
    folders_only = pattern.endswith(b"/")
    pattern = pattern.removesuffix(b"/")
    if not pattern:
        return None
    anchored = b"/" in pattern
    try:
        parts = _split(pattern.removeprefix(b"/"))
        components = tuple(_component(part, alone=not anchored) for part in parts)
    except ValueError:
        return None
    return Rule(excludes, folders_only, anchored, components)


def _split(pattern: bytes) -> list[bytes]:
    """At slashes, escaped ones too, but not inside a class."""
    parts, start, i = [], 0, 0
    while i < len(pattern):
        if pattern[i : i + 1] == b"[":
            _, i = _class(pattern, i)
        elif (slash := pattern.startswith(b"\\/", i)) or pattern[i : i + 1] == b"/":
            parts.append(pattern[start:i])
            i += slash
            start = i + 1
        elif pattern[i : i + 1] == b"\\":
            i += 1
        i += 1
    return [*parts, pattern[start:]]


def _without_trailing_spaces(line: bytes) -> bytes:
    kept = line.rstrip(b" ")
    escaped = len(kept) < len(line) and (len(kept) - len(kept.rstrip(b"\\"))) % 2 == 1
    return kept + b" " if escaped else kept


def _matches(pattern: Sequence[re.Pattern[bytes] | None], path: Sequence[bytes]) -> bool:
    """`reach` holds each j such that pattern[:i] matches path[:j]."""
    reach = {0}
    for i, component in enumerate(pattern):
        if component is _DOUBLE_STAR:
            # At the end it stands for at least one component, elsewhere for none or more.
            first = min(reach) + (1 if i == len(pattern) - 1 else 0)
            reach = set(range(first, len(path) + 1))
        else:
            reach = {j + 1 for j in reach if j < len(path) and component.fullmatch(path[j])}
        if not reach:
            return False
    return len(path) in reach


@functools.lru_cache(4096)
def _component(part: bytes, *, alone: bool) -> re.Pattern[bytes] | None:
    """Raises: ValueError for what git never matches."""
    if len(part) > 1 and not part.strip(b"*") and not alone:
        return _DOUBLE_STAR
    chunks: list[list[bytes]] = [[]]
    i = 0
    while i < len(part):
        match part[i : i + 1]:
            case b"*":
                chunks.append([])
            case b"?":
                chunks[-1].append(b"[^/]")
            case b"[":
                members, i = _class(part, i)
                chunks[-1].append(members)
            case b"\\":
                i += 1
                if i == len(part):
                    raise ValueError("lone backslash")
                chunks[-1].append(re.escape(part[i : i + 1]))
            case literal:
                chunks[-1].append(re.escape(literal))
        i += 1
    first, *rest = (b"".join(chunk) for chunk in chunks)
    if rest:
        *middle, last = (chunk for i, chunk in enumerate(rest) if chunk or i == len(rest) - 1)
        first += b"".join(b"(?>.*?%s)" % chunk for chunk in middle) + b".*" + last
    return re.compile(first, re.DOTALL)


def _class(part: bytes, start: int) -> tuple[bytes, int]:
    """`[…]` at `start` as a regular expression, and the place of its closing bracket."""
    i = start + 1
    negated = part[i : i + 1] in (b"!", b"^")
    i += negated
    members: set[int] = set()
    first = True
    previous: int | None = None
    while first or part[i : i + 1] != b"]":
        first = False
        if part[i : i + 2] == b"[:":
            end = part.index(b":]", i)
            if part[i + 2 : end] not in _POSIX:
                raise ValueError("unknown class")
            members.update(_POSIX[part[i + 2 : end]])
            i, previous = end + 2, None
            continue
        if part[i : i + 1] == b"-" and previous is not None and part[i + 1 : i + 2] != b"]":
            high, i = _member(part, i + 1)
            members.update(range(previous, high + 1))
            previous = None
            continue
        previous, i = _member(part, i)
        members.add(previous)
    members.discard(0x2F)
    listed = b"".join(b"\\x%02x" % member for member in sorted(members))
    if negated:
        return b"[^/%s]" % listed, i
    return (b"[%s]" % listed if listed else b"(?!)"), i


def _member(part: bytes, i: int) -> tuple[int, int]:
    i += part[i : i + 1] == b"\\"
    if i >= len(part):
        raise ValueError("class without an end")
    return part[i], i + 1
