"""What `wfhub up` was asked for, and the part of the user's environment that services may see.

Nothing else of the environment reaches a service: a key in the shell of whoever starts the stack
is not a key that an agent should find.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wfhub_admin.subscribers import Subscriber

PORT = 8642
RUNNERS_MAX = 64
SLOTS_MAX = 256

GATEWAY_VARIABLES = (
    "LLM_PROVIDER",
    "LLM_BASE_URL",
    "LLM_FORMATS",
    "LLM_MODEL",
    "LLM_CASSETTE",
    "LLM_RECORD",
    "LLM_CONFIG",
    "LLM_PRICES",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "GOOGLE_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_BASE_URL",
    "GEMINI_BASE_URL",
    "OLLAMA_HOST",
    "GATEWAY_UNSEEN_TOKENS_PER_S",
)
# Of each service: how long its start may wait, where it sends its spans, and how many of them.
SERVICE_VARIABLES = (
    "START_WAIT_S",
    "CLOCK_SKEW_S_MAX",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
)
METRICS_PORT = "METRICS_PORT"  # of the first service; the others have the ports after it
# How the gateway reaches a provider and a runner reaches a repository.
NETWORK_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)


@dataclass(frozen=True)
class Options:
    data: Path
    port: int = PORT  # 0: any free one
    nats_url: str = ""  # empty: embedded
    database_url: str = ""  # empty: embedded
    runners: int = 1
    slots: int = 2  # attempts at once in one runner
    subscribers: tuple[Subscriber, ...] = ()  # other systems that hear events at the embedded NATS
    labels: tuple[str, ...] = ()  # what tasks may ask of these runners
    toolchains: tuple[Path, ...] = ()
    file_repos: bool = True


def default_data(env: Mapping[str, str], *, root: bool) -> Path:
    """Where a stack keeps everything when no --data is given."""
    if env.get("WFHUB_DATA"):
        return Path(env["WFHUB_DATA"]).expanduser().absolute()
    if root:
        return Path("/var/lib/wfhub")
    home = env.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "wfhub"


def picked(env: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: env[name] for name in names if env.get(name)}


def is_root() -> bool:
    return os.geteuid() == 0
