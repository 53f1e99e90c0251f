"""Where the model's words come from: `replay`, `live` or `local`.

replay   the cassette beside this module, whose turns were written by hand
live     what LLM_PROVIDER, LLM_BASE_URL, … of the caller's environment name
local    a small model on this machine (local_model.py)
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wfhub_local.demo import local_model
from wfhub_local.demo.turns import CASSETTE
from wfhub_local.settings import GATEWAY_VARIABLES, picked

REPLAY, LIVE, LOCAL = MODES = ("replay", "live", "local")


@dataclass(frozen=True)
class Mode:
    name: str
    words: str  # a sentence on where the model's words come from
    env: Mapping[str, str] = field(repr=False)  # for the gateway; may hold a key
    run_s: int = 1800
    must_succeed: bool = True  # a small model is not expected to


def default_name(env: Mapping[str, str]) -> str:
    asked_for_replay = env.get("LLM_PROVIDER") == REPLAY
    named = env.get("LLM_PROVIDER") or env.get("LLM_BASE_URL")
    return LIVE if named and not asked_for_replay else REPLAY


@contextmanager
def opened(name: str, env: Mapping[str, str], folder: Path) -> Iterator[Mode]:
    """The mode, with what it needs running meanwhile. Raises: CannotPrepare."""
    if name == LOCAL:
        with local_model.serving(folder) as url:
            yield Mode(
                LOCAL,
                f"live, from {local_model.NAME} on this machine, a base model far too small for "
                "this work: a failure is expected, and told as one",
                {"LLM_PROVIDER": "openai", "LLM_BASE_URL": url},
                run_s=local_model.RUN_S,
                must_succeed=False,
            )
    elif name == LIVE:
        provider = env.get("LLM_PROVIDER", "openai")
        yield Mode(LIVE, f"live, from the provider {provider}", picked(env, GATEWAY_VARIABLES))
    else:
        yield Mode(
            REPLAY,
            f"replayed from a cassette that was written by hand ({CASSETTE.name}); no model said "
            "them. Everything else is real",
            {"LLM_PROVIDER": "replay", "LLM_CASSETTE": str(CASSETTE)},
        )
