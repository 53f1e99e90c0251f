"""A request with its answer's length limited to what a budget has left. Pure.

Needed where no stream can be cut. Each format has its own name for it.
"""

import re
from dataclasses import replace
from typing import Any

from wfhub_llm_gateway.formats.asked import Asked, json_bytes

# OpenAI's models that think know the one name only, older servers the other only.
_THINKS = re.compile(r"(o[0-9]|gpt-[5-9])")


def clamped(asked: Asked, tokens: int) -> Asked:
    """Unchanged where the client wants no more itself."""
    if asked.completion_max is not None and asked.completion_max <= tokens:
        return asked
    value = {**asked.value, **_limit(asked, tokens)}
    return replace(asked, raw=json_bytes(value), value=value, completion_max=tokens)


def _limit(asked: Asked, tokens: int) -> dict[str, Any]:
    value = asked.value
    match asked.format:
        case "responses":
            return {"max_output_tokens": tokens}
        case "gemini":
            name = "generationConfig" if "generation_config" not in value else "generation_config"
            config = value.get(name)
            config = config if isinstance(config, dict) else {}
            kept = {key: each for key, each in config.items() if key != "max_output_tokens"}
            return {name: {**kept, "maxOutputTokens": tokens}}
        case "chat":
            given = [n for n in ("max_completion_tokens", "max_tokens") if value.get(n) is not None]
            default = "max_completion_tokens" if _THINKS.match(asked.model) else "max_tokens"
            return dict.fromkeys(given or [default], tokens)
    return {"max_tokens": tokens}
