"""Agents as data: a row says how a command-line agent is started; no agent has code of its own.

argv and env values are templates of `{python}` `{prompt}` `{prompt_file}` `{model}` `{max_steps}`
`{base_url}` (…/v1) `{gateway}` (the same without /v1) `{key}` (a dummy: the relay adds the real
token outside) and `{home}`. An env value that becomes empty is left out: the agent's default
holds. `files` map a path inside to content, a bytes constant or a function that makes it; those
below FILES the agent cannot change.
Raises: Rejected("agent-unknown"), Rejected("agent-needs-argv").
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from wfhub_common.errors import Rejected
from wfhub_common.messages import AgentSpec

from wfhub_agent_runner.agents import archive
from wfhub_agent_runner.sandbox.port import FILES, GATEWAY_URL, HOME

PROMPT_FILE = f"{FILES}/prompt.md"
DUMMY_KEY = "wfhub-dummy-key"  # the gateway's socket is the identity; this opens nothing

Content = bytes | Callable[[], bytes]


@dataclass(frozen=True)
class AgentEntry:
    """`parser` names how its output is read: wfhub-jsonl, or none (kept as text)."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: Mapping[str, Content] = field(default_factory=lambda: MappingProxyType({}))
    parser: str = "none"


@dataclass(frozen=True)
class AgentPlan:
    """What the sandbox is to run: `files` map a path inside to its content."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, bytes]
    parser: str


# What any program that speaks to a model may look for.
_SHARED_ENV = {
    "OPENAI_BASE_URL": "{base_url}",
    "OPENAI_API_KEY": "{key}",
    "WFHUB_PROMPT_FILE": "{prompt_file}",
    "WFHUB_MODEL": "{model}",
    "WFHUB_MAX_STEPS": "{max_steps}",
}

COMMAND = "command"

ENTRIES: Mapping[str, AgentEntry] = {
    entry.name: entry
    for entry in (
        AgentEntry(
            name="builtin",
            argv=("{python}", "-I", "-S", f"{FILES}/{archive.NAME}"),
            env=_SHARED_ENV,
            files={f"{FILES}/{archive.NAME}": archive.content},
            parser="wfhub-jsonl",
        ),
        # Any program: its argv is AgentSpec.argv as it stands, not a template.
        AgentEntry(name=COMMAND, argv=(), env=_SHARED_ENV),
    )
}


def lookup(name: str) -> AgentEntry:
    try:
        return ENTRIES[name]
    except KeyError:
        known = sorted(ENTRIES)
        message = f"no agent is named {name!r}; choose one of: {', '.join(known)}"
        raise Rejected("agent-unknown", message, known=known) from None


def _words(
    template: Sequence[str], python: Sequence[str], values: Mapping[str, str]
) -> Iterator[str]:
    for part in template:
        yield from python if part == "{python}" else (part.format_map(values),)


def plan(
    spec: AgentSpec, *, prompt: str, python: tuple[str, ...], gateway: str = GATEWAY_URL
) -> AgentPlan:
    """How to start the agent of a task. `python`: the words that start one inside; `gateway`:
    the relay's URL inside, without /v1. A spec with `argv` is a command whatever its name."""
    entry = ENTRIES[COMMAND] if spec.argv else lookup(spec.name)
    values = {
        "prompt": prompt,
        "prompt_file": PROMPT_FILE,
        "model": spec.model or "",
        "max_steps": str(spec.max_steps),
        "base_url": f"{gateway}/v1",
        "gateway": gateway,
        "key": DUMMY_KEY,
        "home": HOME,
    }
    argv = spec.argv or tuple(_words(entry.argv, python, values))
    if not argv:
        raise Rejected("agent-needs-argv", "the agent `command` needs agent.argv, the program")
    env = {name: template.format_map(values) for name, template in entry.env.items()}
    files = {
        path.format_map(values): content() if callable(content) else content
        for path, content in entry.files.items()
    }
    return AgentPlan(
        argv=argv,
        env={name: value for name, value in env.items() if value},
        files={PROMPT_FILE: prompt.encode(), **files},
        parser=entry.parser,
    )
