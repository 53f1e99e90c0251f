"""Why a server did not answer as it should, from its status and words. Pure.

reason         | from                                                     | the server is to blame
rate-limited   | 429                                                      | for a while
failed         | 5xx, no connection, a broken answer, its key refused     | yes
timeout        | no first byte in time                                    | yes
context-length | 400 or 413 that says the prompt is too long              | no
model-missing  | 404: the model is not there                              | no

Anything else is an answer.
"""

import re
from typing import Literal

Reason = Literal["rate-limited", "failed", "timeout", "context-length", "model-missing"]

# Of the servers' own errors: OpenAI, llama.cpp, vLLM, Anthropic, Gemini, in that order.
_TOO_LONG = re.compile(
    rb"context_length_exceeded|maximum context length|exceed_context_size|context size|"
    rb"max_model_len|longer than the maximum model length|prompt is too long|"
    rb"input token count.{0,40}exceeds|context (window|length)",
    re.IGNORECASE,
)
ERROR_BYTES_LOOKED_AT = 4000

# Of UpstreamFailed.
_BY_CODE: dict[str, Reason] = {
    "upstream-timeout": "timeout",
    "upstream-idle": "timeout",
    "upstream-auth": "failed",
    "upstream-error": "failed",
    "upstream-unreachable": "failed",
    "upstream-disconnected": "failed",
    "upstream-malformed": "failed",
}


def of_code(code: str) -> Reason | None:
    return _BY_CODE.get(code)


def of_answer(status: int, body: bytes) -> Reason | None:
    """`body`: as much of an error's as is there. None: it is the answer."""
    match status:
        case 429:
            return "rate-limited"
        case 404:
            return "model-missing"
        case 400 | 413 if _TOO_LONG.search(body[:ERROR_BYTES_LOOKED_AT]):
            return "context-length"
    return "failed" if status >= 500 else None


def same_server_again(reason: Reason) -> bool:
    """Whether the same deployment may answer when it is asked once more."""
    return reason in ("rate-limited", "failed", "timeout")


def blames_server(reason: Reason) -> bool:
    """Counts towards its circuit breaker."""
    return reason in ("failed", "timeout")
