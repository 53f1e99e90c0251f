"""Entry: settings from the environment, one session, its exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Mapping  # noqa: UP035 - Python 3.8

from .events import Events
from .history import CONTEXT_TOKENS
from .model import Model, ModelError
from .session import Session
from .tools import schema

NO_MODEL, FAILED = 4, 5  # exit codes; session.py has the others
STEPS_MAX = 50
RETRY_BASE_S = 1.0


def main(env: Mapping[str, str]) -> int:
    events = Events(sys.stdout)
    try:
        with open(env["WFHUB_PROMPT_FILE"], encoding="utf-8", errors="replace") as file:
            prompt = file.read()
        model = Model(
            env["OPENAI_BASE_URL"],
            env.get("OPENAI_API_KEY", ""),
            env.get("WFHUB_MODEL", ""),
            tools=schema(),
            retry_base_s=float(env.get("WFHUB_RETRY_BASE_S", RETRY_BASE_S)),
            events=events,
        )
        steps_max = int(env.get("WFHUB_MAX_STEPS", STEPS_MAX))
        context_tokens = int(env.get("WFHUB_CONTEXT_TOKENS", CONTEXT_TOKENS))
    except KeyError as e:
        return _failed(events, FAILED, "bad-settings", f"the variable {e.args[0]} is not set")
    except (OSError, ValueError) as e:
        return _failed(events, FAILED, "bad-settings", str(e))
    try:
        return Session(model, events, prompt, context_tokens=context_tokens).run(steps_max)
    except ModelError as e:
        return _failed(events, NO_MODEL, e.code, str(e))
    except Exception as e:  # noqa: BLE001 - the exit code is what callers are promised
        traceback.print_exc()
        return _failed(events, FAILED, "internal", repr(e))


def _failed(events: Events, code: int, reason: str, message: str) -> int:
    events("error", code=reason, message=message)
    events("finish", reason=reason, summary=message, exit_code=code)
    return code


if __name__ == "__main__":
    sys.exit(main(os.environ))
