"""Shared caches of package managers: the operator's folders, seen by sandboxes and never changed.

`SHARED_CACHES=npm:/srv/npm=*;pip:/srv/web-pip=web,mobile` says which project finds which folder
where its package manager looks. It can write there (most of them insist): that lies on a layer
which goes with the run. A rule that names the project wins over one for all (`*`).
Raises: ValueError for a rule that cannot be read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wfhub_agent_runner.sandbox.port import HOME

# Where each looks by itself, below HOME.
PLACES = {
    "cargo": ".cargo/registry",
    "go": "go/pkg/mod",
    "gradle": ".gradle/caches",
    "maven": ".m2/repository",
    "npm": ".npm",
    "pip": ".cache/pip",
    "pnpm": ".local/share/pnpm/store",
    "uv": ".cache/uv",
    "yarn": ".cache/yarn",
}
_EVERY = "*"


@dataclass(frozen=True)
class Rule:
    name: str  # of PLACES
    folder: Path
    projects: frozenset[str]


def parse(text: str) -> tuple[Rule, ...]:
    rules = tuple(_rule(part.strip()) for part in text.split(";") if part.strip())
    seen: set[tuple[str, str]] = set()
    for rule in rules:
        for project in rule.projects:
            if (rule.name, project) in seen:
                raise ValueError(f"two {rule.name} caches for {project!r}; leave one")
            seen.add((rule.name, project))
    return rules


def _rule(text: str) -> Rule:
    what, equals, projects = text.rpartition("=")
    name, colon, folder = what.partition(":")
    wanted = frozenset(part.strip() for part in projects.split(",") if part.strip())
    if not equals or not colon or not wanted or not Path(folder).is_absolute():
        raise ValueError(f"{text!r} is no rule; write name:/folder=project,project or …=*")
    if name not in PLACES:
        raise ValueError(f"{name!r} is no known cache; there are {', '.join(PLACES)}")
    return Rule(name, Path(folder), wanted)


def of(rules: tuple[Rule, ...], project: str) -> Mapping[str, Path]:
    """By path inside."""
    for_all = {rule.name: rule.folder for rule in rules if _EVERY in rule.projects}
    its_own = {rule.name: rule.folder for rule in rules if project in rule.projects}
    found = for_all | its_own
    return {f"{HOME}/{PLACES[name]}": found[name] for name in sorted(found)}
