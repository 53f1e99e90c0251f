"""What a sandbox is to run for the agent of a task: a row of the table, filled in. Pure.

Raises: Rejected("agent-unknown"), Rejected("agent-needs-argv"), Rejected("agent-without-mcp").
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from wfhub_common.errors import Rejected
from wfhub_common.messages import AgentSpec, McpServer

from wfhub_agent_runner.agents import configs, table
from wfhub_agent_runner.agents.configs import Filling
from wfhub_agent_runner.agents.entry import AS_ARGUMENTS, IN_PROMPT, AgentEntry, Config
from wfhub_agent_runner.sandbox.port import GATEWAY_URL, HOME

PROMPT_ARGUMENT_BYTES_MAX = 96 * 1024  # Linux takes 128 KiB an argument
DEFAULT_MODEL = "default"  # leaves the choice to the gateway
BY_ITSELF = "by itself"  # how a context file reaches the agent: it reads it


@dataclass(frozen=True)
class Surroundings:
    """What the checkout brings: context files by name at its top, and its own MCP servers."""

    context: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    servers: Mapping[str, McpServer] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class AgentPlan:
    """`files` map a path inside to its content; `context` says how each file was handed over."""

    entry: AgentEntry
    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, bytes]
    context: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    servers: Mapping[str, McpServer] = field(default_factory=lambda: MappingProxyType({}))


def entry_of(spec: AgentSpec) -> AgentEntry:
    """A spec with `argv` is a command whatever its name."""
    return table.ENTRIES[table.COMMAND] if spec.argv else table.lookup(spec.name)


def plan(
    spec: AgentSpec,
    *,
    prompt: str,
    python: Sequence[str],
    gateway: str = GATEWAY_URL,
    around: Surroundings | None = None,
    servers: Mapping[str, McpServer] = MappingProxyType({}),
) -> AgentPlan:
    """`python`: the words that start one inside the sandbox; `gateway`: the relay's URL inside,
    without /v1; `servers`: the project's. What the task says about an MCP server goes before what
    its project says, and that before the checkout's."""
    entry, around = entry_of(spec), around or Surroundings()
    _check_mcp(spec, entry)
    offered = {**around.servers, **servers, **spec.mcp} if entry.mcp else {}
    ways = {name: _way(entry, name) for name in around.context}
    text = _with_context(
        prompt, {name: around.context[name] for name, way in ways.items() if way == IN_PROMPT}
    )
    values = {
        "prompt": _as_argument(text),
        "prompt_file": table.PROMPT_FILE,
        "model": spec.model or "",
        "model_name": spec.model or DEFAULT_MODEL,
        "max_steps": str(spec.max_steps),
        "base_url": f"{gateway}/v1",
        "gateway": gateway,
        "key": table.DUMMY_KEY,
        "home": HOME,
    }
    filling = Filling(values, offered, tuple(n for n, way in ways.items() if way == BY_ITSELF))
    argv = spec.argv or tuple(_words(entry.argv, python, values))
    if not argv:
        raise Rejected("agent-needs-argv", "the agent `command` needs agent.argv, the program")
    for name in (name for name, way in ways.items() if way == AS_ARGUMENTS):
        argv = (*argv, entry.context_option, name)
    env = {name: template.format_map(values) for name, template in entry.env.items()}
    return AgentPlan(
        entry=entry,
        argv=argv,
        env={name: value for name, value in env.items() if value},
        files={table.PROMPT_FILE: text.encode(), **_files(entry, filling)},
        context=ways,
        servers=offered,
    )


def _check_mcp(spec: AgentSpec, entry: AgentEntry) -> None:
    if spec.mcp and not entry.mcp and entry.name != table.COMMAND:
        able = ", ".join(sorted(e.name for e in table.ENTRIES.values() if e.mcp))
        message = f"{entry.name} has no MCP servers; leave agent.mcp out, or choose one of: {able}"
        raise Rejected("agent-without-mcp", message)


def _files(entry: AgentEntry, filling: Filling) -> dict[str, bytes]:
    """The agent's own, by path inside."""
    files: dict[str, bytes] = {}
    for template, content in entry.files.items():
        path = template.format_map(filling.values)
        if isinstance(content, Config):
            files[path] = configs.written(content, filling)
        else:
            files[path] = content() if callable(content) else content
    return files


def _words(
    template: Sequence[str], python: Sequence[str], values: Mapping[str, str]
) -> Iterator[str]:
    for part in template:
        yield from python if part == "{python}" else (part.format_map(values),)


def _way(entry: AgentEntry, name: str) -> str:
    if entry.name == table.COMMAND:
        return "in the checkout"  # a program of the task's own: its prompt is not ours to add to
    return BY_ITSELF if name in entry.context else entry.context_way


def _with_context(prompt: str, context: Mapping[str, str]) -> str:
    notes = [f"# Notes of this repository, from {n}\n\n{text}\n" for n, text in context.items()]
    return "\n".join([*notes, f"# The task\n\n{prompt}"]) if notes else prompt


def _as_argument(prompt: str) -> str:
    if len(prompt.encode()) <= PROMPT_ARGUMENT_BYTES_MAX:
        return prompt
    return f"Read the file {table.PROMPT_FILE} to its end, and do what it says."
