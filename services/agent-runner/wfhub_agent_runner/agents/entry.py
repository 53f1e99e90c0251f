"""The shape of a row of the table: how a command-line agent is started, and what it needs.

argv, env values, the paths of `files` and every text in a Config are templates of `{python}`
`{prompt}` `{prompt_file}` `{model}` ("" when the task names none) `{model_name}` ("default" then)
`{max_steps}` `{base_url}` (…/v1) `{gateway}` (the same without /v1) `{key}` (a dummy: the relay
adds the real token outside) and `{home}`. An env value that becomes empty is left out: the agent's
default holds. Files below FILES the agent cannot change.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal


class Wire(StrEnum):
    """The format in which an agent speaks to a model, by the path it asks."""

    CHAT = "chat-completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    GEMINI = "gemini"
    ANY = "any"


class Install(StrEnum):
    """Where the program comes from."""

    BUILT_IN = "built-in"
    PIP = "pip"  # `wfhub agent install`, by our lock
    NPM = "npm"  # likewise
    OWN = "own"  # a toolchain or an image of the operator's


class Mcp(StrEnum):
    """How an agent's configuration lists MCP servers over stdio (configs.py writes them)."""

    COMMAND_ARGS = "command-args"  # {name: {command, args, env}}
    CODEX = "codex"  # likewise, and waited for: else its first question is put without them
    OPENCODE = "opencode"  # {name: {type: local, command: argv, environment}}
    GOOSE = "goose"  # {name: {type: stdio, cmd, args, envs}}


@dataclass(frozen=True)
class Servers:
    """In a Config: here the MCP servers go."""

    form: Mcp


@dataclass(frozen=True)
class ContextNames:
    """In a Config: here the names of the context files go that the checkout has."""


@dataclass(frozen=True)
class Config:
    """A configuration file as data: objects, lists, numbers, templates, and the two above."""

    value: Mapping[str, Any]
    form: Literal["json", "toml"] = "json"


Content = bytes | Callable[[], bytes] | Config

IN_PROMPT = "prompt"  # context files are put before the prompt
AS_ARGUMENTS = "arguments"  # each is named on the command line, after `context_option`


@dataclass(frozen=True)
class AgentEntry:
    """`parser` names how its output is read (parsers/), `none`: kept as text.

    `version` is what we lock and test, "" where that is the operator's choice; `version_argv` is
    run once in a sandbox, to see that the program is there and which version it has.
    `context` names the context files it finds by itself; of the others, `context_way` says how
    it gets them. Agents with `mcp` False have no MCP servers.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    files: Mapping[str, Content] = field(default_factory=lambda: MappingProxyType({}))
    parser: str = "none"
    wire: Wire = Wire.ANY
    install: Install = Install.OWN
    version: str = ""
    version_argv: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    context_way: str = IN_PROMPT
    context_option: str = ""
    mcp: bool = False
    steers: bool = False  # reads messages while it runs
    # The call of its own tool, with these arguments, by which it ends, where an answer without one
    # does not end it; "" of the others. For who is told to hand in and does not listen.
    last_call: tuple[str, Mapping[str, Any]] = ("", MappingProxyType({}))
