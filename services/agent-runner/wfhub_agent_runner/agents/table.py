"""Agents as data: a row says how a command-line agent is started; no agent has code of its own.

entry.py says what a row may hold. What the rows know about each program was tried with it, by the
tests in tests/e2e/agents; goose is from its documentation.
Raises: Rejected("agent-unknown").
"""

from collections.abc import Mapping

from wfhub_common.errors import Rejected

from wfhub_agent_runner.agents import archive
from wfhub_agent_runner.agents.entry import (
    AS_ARGUMENTS,
    AgentEntry,
    Config,
    ContextNames,
    Install,
    Mcp,
    Servers,
    Wire,
)
from wfhub_agent_runner.sandbox.port import FILES

PROMPT_FILE = f"{FILES}/prompt.md"
DUMMY_KEY = "wfhub-dummy-key"  # the gateway's socket is the identity; this opens nothing
COMMAND = "command"
BUILTIN = "builtin"

# What any program that speaks to a model may look for.
_SHARED_ENV = {
    "OPENAI_BASE_URL": "{base_url}",
    "OPENAI_API_KEY": "{key}",
    "WFHUB_PROMPT_FILE": "{prompt_file}",
    "WFHUB_MODEL": "{model}",
    "WFHUB_MAX_STEPS": "{max_steps}",
}
# mini keeps its conversation in a file only: told afterwards, one message a line. Of one that is
# stopped too: a shell with a trap goes on after a SIGTERM, when its program has ended.
_MINI = b"""
import json
try:
    with open("/tmp/mini.traj.json") as file:
        for message in json.load(file)["messages"]:
            print(json.dumps(message))
except (OSError, ValueError, KeyError) as e:
    print(f"no trajectory: {e}")
"""
_TOLD_AFTERWARDS = (
    'trap : TERM; mini -y --exit-immediately -m "$1" -o /tmp/mini.traj.json -t "$2"; code=$?; '
    '"$3" -I "$4"; exit $code'
)
# aider's map of the repository has no other place than the workspace.
_CLEARED_AFTERWARDS = 'trap : TERM; aider "$@"; code=$?; rm -rf .aider.tags.cache.v*; exit $code'
_JUST_THE_GATEWAY = {"NO_COLOR": "1", "CI": "1", "NO_UPDATE_NOTIFIER": "1"}

ENTRIES: Mapping[str, AgentEntry] = {
    entry.name: entry
    for entry in (
        AgentEntry(
            name=BUILTIN,
            argv=("{python}", "-I", "-S", f"{FILES}/{archive.NAME}"),
            env={**_SHARED_ENV, "WFHUB_INBOX_URL": "{gateway}/wfhub/inbox"},
            files={f"{FILES}/{archive.NAME}": archive.content},
            parser="wfhub-jsonl",
            wire=Wire.CHAT,
            install=Install.BUILT_IN,
            version=archive.version(),
            steers=True,
        ),
        AgentEntry(
            name="mini-swe-agent",
            argv=("/bin/sh", "-c", _TOLD_AFTERWARDS, "mini", "openai/{model_name}", "{prompt}",
                  "{python}", f"{FILES}/trajectory.py"),
            env={
                **_JUST_THE_GATEWAY,
                "OPENAI_BASE_URL": "{base_url}",
                "OPENAI_API_KEY": "{key}",
                "MSWEA_CONFIGURED": "true",
                "MSWEA_COST_TRACKING": "ignore_errors",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else fetched from the network
            },
            files={f"{FILES}/trajectory.py": _MINI},
            parser="mini-messages",
            wire=Wire.CHAT,
            install=Install.PIP,
            version="2.4.6",
            last_call=("bash", {"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"}),
            version_argv=("mini", "--help"),  # its first line says it
        ),
        AgentEntry(
            name="aider",
            argv=("/bin/sh", "-c", _CLEARED_AFTERWARDS, "aider",
                  "--model", "openai/{model_name}", "--message-file", "{prompt_file}",
                  "--yes-always", "--no-stream", "--no-pretty", "--no-fancy-input",
                  "--no-check-update", "--no-show-release-notes", "--no-show-model-warnings",
                  "--no-gitignore", "--no-auto-commits", "--no-dirty-commits",
                  "--no-suggest-shell-commands", "--no-detect-urls", "--analytics-disable",
                  "--edit-format", "diff",
                  "--chat-history-file", "{home}/aider.chat.md",
                  "--input-history-file", "{home}/aider.input"),
            env={
                **_JUST_THE_GATEWAY,
                "OPENAI_API_BASE": "{base_url}",
                "OPENAI_API_KEY": "{key}",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            },
            # Prices, which it would fetch: a cache that is not empty is not asked for again.
            files={
                "{home}/.aider/caches/model_prices_and_context_window.json": Config({"none": {}})
            },
            parser="aider-text",
            wire=Wire.CHAT,
            install=Install.PIP,
            version="0.86.2",
            version_argv=("aider", "--version"),
            context_way=AS_ARGUMENTS,
            context_option="--read",
        ),
        AgentEntry(
            name="codex",
            argv=("codex", "exec", "--json", "--skip-git-repo-check",
                  "--dangerously-bypass-approvals-and-sandbox", "-m", "{model_name}",
                  "--", "{prompt}"),
            env={**_JUST_THE_GATEWAY, "OPENAI_API_KEY": "{key}"},
            files={
                "{home}/.codex/config.toml": Config(
                    {
                        "model_provider": "wfhub",
                        "check_for_update_on_startup": False,
                        "project_doc_fallback_filenames": ContextNames(),
                        "analytics": {"enabled": False},
                        "model_providers": {
                            "wfhub": {
                                "name": "wfhub",
                                "base_url": "{base_url}",
                                "env_key": "OPENAI_API_KEY",
                                "wire_api": "responses",
                            }
                        },
                        "mcp_servers": Servers(Mcp.CODEX),
                    },
                    form="toml",
                )
            },
            parser="codex-jsonl",
            wire=Wire.RESPONSES,
            install=Install.NPM,
            version="0.171.0",
            version_argv=("codex", "--version"),
            context=("AGENTS.md",),
            mcp=True,
        ),
        AgentEntry(
            name="claude-code",
            argv=("claude", "--output-format", "stream-json", "--verbose",
                  "--dangerously-skip-permissions", "--max-turns", "{max_steps}",
                  "--mcp-config", f"{FILES}/mcp.json", "-p", "--", "{prompt}"),
            env={
                **_JUST_THE_GATEWAY,
                "ANTHROPIC_BASE_URL": "{gateway}",
                "ANTHROPIC_AUTH_TOKEN": "{key}",
                "ANTHROPIC_MODEL": "{model_name}",
                "ANTHROPIC_SMALL_FAST_MODEL": "{model_name}",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_AUTOUPDATER": "1",
                "IS_SANDBOX": "1",
            },
            files={f"{FILES}/mcp.json": Config({"mcpServers": Servers(Mcp.COMMAND_ARGS)})},
            parser="claude-jsonl",
            wire=Wire.MESSAGES,
            install=Install.NPM,
            version="2.1.332",
            version_argv=("claude", "--version"),
            context=("CLAUDE.md",),
            mcp=True,
        ),
        AgentEntry(
            name="opencode",
            argv=("opencode", "run", "--format", "json", "--auto", "-m", "wfhub/{model_name}",
                  "--", "{prompt}"),
            env={
                **_JUST_THE_GATEWAY,
                "OPENAI_API_KEY": "{key}",
                "OPENCODE_DISABLE_AUTOUPDATE": "1",
                "OPENCODE_DISABLE_MODELS_FETCH": "1",
                "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
                "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
            },
            files={
                "{home}/.config/opencode/opencode.json": Config(
                    {
                        "autoupdate": False,
                        "share": "disabled",
                        "small_model": "wfhub/{model_name}",
                        "provider": {
                            "wfhub": {
                                "npm": "@ai-sdk/openai-compatible",  # it has it in itself
                                "options": {"baseURL": "{base_url}", "apiKey": "{key}"},
                                "models": {"{model_name}": {"name": "{model_name}"}},
                            }
                        },
                        "instructions": ContextNames(),
                        "mcp": Servers(Mcp.OPENCODE),
                    }
                )
            },
            parser="opencode-jsonl",
            wire=Wire.CHAT,
            install=Install.NPM,
            version="1.18.33",
            version_argv=("opencode", "--version"),
            context=("AGENTS.md", "CLAUDE.md", ".goosehints"),
            mcp=True,
        ),
        AgentEntry(
            name="gemini-cli",
            argv=("gemini", "--skip-trust", "--yolo", "-o", "stream-json", "-m", "{model_name}",
                  "--prompt={prompt}"),
            env={
                **_JUST_THE_GATEWAY,
                "GOOGLE_GEMINI_BASE_URL": "{gateway}",
                "GEMINI_API_KEY": "{key}",
                "GEMINI_SANDBOX": "false",
            },
            files={
                "{home}/.gemini/settings.json": Config(
                    {
                        "security": {"auth": {"selectedType": "gemini-api-key"}},
                        "general": {"enableAutoUpdate": False, "disableAutoUpdate": True},
                        "privacy": {"usageStatisticsEnabled": False},
                        "telemetry": {"enabled": False},
                        "context": {"fileName": ContextNames()},
                        "mcpServers": Servers(Mcp.COMMAND_ARGS),
                    }
                )
            },
            parser="gemini-jsonl",
            wire=Wire.GEMINI,
            install=Install.NPM,
            version="0.61.0",
            version_argv=("gemini", "--version"),
            context=("AGENTS.md", "CLAUDE.md", ".goosehints"),
            mcp=True,
        ),
        AgentEntry(
            name="qwen-code",
            argv=("qwen", "--yolo", "--auth-type", "openai", "-o", "stream-json",
                  "--prompt={prompt}"),
            env={
                **_JUST_THE_GATEWAY,
                "OPENAI_BASE_URL": "{base_url}",
                "OPENAI_API_KEY": "{key}",
                "OPENAI_MODEL": "{model_name}",
                "QWEN_CODE_SUPPRESS_YOLO_WARNING": "1",
            },
            files={
                "{home}/.qwen/settings.json": Config(
                    {
                        "general": {"enableAutoUpdate": False, "disableAutoUpdate": True},
                        "privacy": {"usageStatisticsEnabled": False},
                        "telemetry": {"enabled": False},
                        "context": {"fileName": ContextNames()},
                        "mcpServers": Servers(Mcp.COMMAND_ARGS),
                    }
                )
            },
            parser="claude-jsonl",
            wire=Wire.CHAT,
            install=Install.NPM,
            version="0.24.4",
            version_argv=("qwen", "--version"),
            context=("AGENTS.md", "CLAUDE.md", ".goosehints"),
            mcp=True,
        ),
        AgentEntry(
            name="goose",
            argv=("goose", "run", "--no-session", "-q", "--output-format", "stream-json",
                  "--max-turns", "{max_steps}", "-i", "{prompt_file}"),
            env={
                **_JUST_THE_GATEWAY,
                "GOOSE_PROVIDER": "openai",
                "GOOSE_MODEL": "{model_name}",
                "GOOSE_MODE": "auto",
                "GOOSE_DISABLE_KEYRING": "1",
                "GOOSE_PATH_ROOT": "{home}/goose",
                "OPENAI_HOST": "{gateway}",
                "OPENAI_BASE_PATH": "v1/chat/completions",
                "OPENAI_API_KEY": "{key}",
            },
            files={
                "{home}/goose/config/config.yaml": Config({"extensions": Servers(Mcp.GOOSE)}),
            },
            parser="goose-jsonl",
            wire=Wire.CHAT,
            version_argv=("goose", "--version"),
            context=("AGENTS.md", ".goosehints"),
            mcp=True,
        ),
        # Any program: its argv is AgentSpec.argv as it stands, not a template.
        AgentEntry(name=COMMAND, argv=(), env=_SHARED_ENV),
    )
}  # fmt: skip


def lookup(name: str) -> AgentEntry:
    try:
        return ENTRIES[name]
    except KeyError:
        known = sorted(ENTRIES)
        message = f"no agent is named {name!r}; choose one of: {', '.join(known)}"
        raise Rejected("agent-unknown", message, known=known) from None
