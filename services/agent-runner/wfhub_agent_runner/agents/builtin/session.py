"""A session: ask, carry out the calls, answer with their results; until finished or a limit.

Calls of one answer are carried out in their order. After an edit of a file that failed, later ones
of the same answer to that file are not made: they were written for what it would have become.
A model that prints {"name": tool, "arguments": {…}} as its text (bare, in a ``` fence or in
<tool_call>) is understood too; it then gets the result as a user message.
Raises: ModelError.
"""

from __future__ import annotations

import json
import os
from typing import Any

from .errors import ToolError
from .events import Events, clipped
from .history import CHARS_PER_TOKEN, CONTEXT_TOKENS, History
from .model import Model, ModelError
from .tools import Toolbox, arguments_of, call_in_text

FINISHED, STEP_LIMIT = 0, 3  # exit codes

RESULT_CHARS_MAX = 20_000  # of one tool result given to the model: head and tail
RESULT_SHARE = 8  # … and at most this part of the context
RESULTS_CHARS_MAX = 100_000  # of all results of one answer; then RESULT_CHARS_LATE each
RESULTS_SHARE = 4
RESULT_CHARS_LATE = 1_000
CALLS_MAX = 32  # tool calls in one answer
NUDGES_MAX = 2  # answers in a row without a tool call that are nudged; the next one ends it
SHORTENINGS_MAX = 3  # for one request
EDITS = ("write_file", "patch_file")

SYSTEM = (
    "You are a software engineer working alone in a git repository: the current directory. "
    "Work with the tools: look before you change, change as little as the task needs, run the "
    "tests, then call finish with a short summary. For work of several steps keep a plan. What "
    "you leave in the files is your result; do not commit. Nobody can answer questions. There is "
    "no network."
)
NUDGE = "Call a tool to go on, or call finish with a summary if the task is done."


class Session:
    def __init__(
        self, model: Model, events: Events, prompt: str, *, context_tokens: int = CONTEXT_TOKENS
    ) -> None:
        self.model, self.events = model, events
        self.history = History(SYSTEM, prompt, context_tokens=context_tokens)
        self.toolbox = Toolbox()
        self.results_left = 0  # characters, of the answer at work
        self.tokens = {"prompt_tokens": 0, "completion_tokens": 0}
        self.summary: str | None = None  # set by finish

    def run(self, steps_max: int) -> int:
        silent = 0
        for step in range(1, steps_max + 1):
            self.events("step", number=step, of=steps_max)
            answer = self.answer()
            if answer["content"]:
                self.events("message", text=answer["content"])
            silent = 0 if self.act(answer, step) else silent + 1
            if self.summary is not None:
                return self.end(FINISHED, "finished", self.summary)
            if silent > NUDGES_MAX:
                return self.end(FINISHED, "no-more-calls", answer["content"])
        return self.end(STEP_LIMIT, "step-limit", f"not finished after {steps_max} steps")

    def answer(self) -> dict[str, Any]:
        """The model's next answer; the history is made shorter first if it has to be."""
        if self.history.is_full():
            self.shorten()
        for _ in range(SHORTENINGS_MAX):
            try:
                return self.ask(self.history.messages())
            except ModelError as e:
                if e.code != "context-full":
                    raise
                self.history.overflowed()
                self.shorten()
        return self.ask(self.history.messages())

    def ask(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        answer = self.model.answer(messages)
        self.count(answer["usage"])
        return answer

    def shorten(self) -> None:
        before = self.history.tokens()
        self.history.shorten(plan=self.toolbox.plan, sum_up=self.sum_up)
        self.events("compaction", tokens_before=before, tokens_after=self.history.tokens())

    def sum_up(self, messages: list[dict[str, Any]]) -> str:
        try:
            return str(self.ask(messages)["content"])
        except ModelError as e:
            if e.code != "context-full":
                raise
            return ""

    def act(self, answer: dict[str, Any], step: int) -> bool:
        """Carry out what the answer asks for; False when it asks for nothing."""
        cut = answer["finish_reason"] == "length"
        self.results_left = self.room(RESULTS_CHARS_MAX, RESULTS_SHARE)
        turn: list[dict[str, Any]] = [{"role": "assistant", "content": answer["content"]}]
        self.history.turns.append(turn)
        calls = answer["tool_calls"][:CALLS_MAX]
        if calls:
            for n, call in enumerate(calls, 1):
                call["id"] = call["id"] or f"call-{step}-{n}"
            turn[0]["tool_calls"] = [_as_sent(call) for call in calls]
            failed: set[str] = set()
            for call in calls:
                result = self.carry_out(call, failed, cut=cut)
                turn.append({"role": "tool", "tool_call_id": call["id"], "content": result})
            return True
        printed = call_in_text(answer["content"])
        if printed is None:
            turn.append({"role": "user", "content": NUDGE})
            return False
        result = self.carry_out({**printed, "id": f"text-{step}"}, set(), cut=cut)
        turn.append({"role": "user", "content": f"Result of {printed['name']}:\n{result}"})
        return True

    def carry_out(self, call: dict[str, Any], failed: set[str], *, cut: bool) -> str:
        """The text that the model gets for one call; a mistake or a failure is a text too.
        `failed`: files that an edit of the same answer failed to change."""
        named = {"id": call["id"], "name": call["name"]}
        self.events("tool_call", **named, arguments=call["arguments"])
        ok, edited = False, ""
        try:
            if self.summary is not None:
                raise ToolError("not run: it came after finish")
            arguments = arguments_of(call, cut=cut)
            if call["name"] in EDITS:
                edited = os.path.normpath(arguments["path"])
            if edited in failed:
                raise ToolError("not made: an earlier change to this file failed; look again first")
            result = self.toolbox.calls[call["name"]](**arguments)
            ok = True
            if call["name"] == "finish":
                self.summary = result
        except ToolError as e:
            result = f"error: {e}"
        except OSError as e:
            result = f"error: {e.filename or call['name']}: {e.strerror or e}"
        except ValueError as e:  # a NUL in a path or a command
            result = f"error: {e}"
        if edited and not ok:
            failed.add(edited)
        room = self.room(RESULT_CHARS_MAX, RESULT_SHARE)
        result = clipped(result, room if self.results_left > 0 else RESULT_CHARS_LATE)
        self.results_left -= len(result)
        self.events("tool_result", **named, ok=ok, output=result)
        return result

    def room(self, chars_max: int, share: int) -> int:
        return min(chars_max, self.history.context_tokens * CHARS_PER_TOKEN // share)

    def count(self, usage: dict[str, Any] | None) -> None:
        if usage:
            spent = {key: int(usage.get(key) or 0) for key in self.tokens}
            self.tokens = {key: self.tokens[key] + spent[key] for key in self.tokens}
            self.events("usage", **spent)

    def end(self, code: int, reason: str, summary: str) -> int:
        self.events("finish", reason=reason, summary=summary, exit_code=code, **self.tokens)
        return code


def _as_sent(call: dict[str, Any]) -> dict[str, Any]:
    """The call as history. Arguments that are no JSON object are left out of it: servers that
    parse them would refuse every later request."""
    try:
        sound = isinstance(json.loads(call["arguments"] or "{}"), dict)
    except ValueError:
        sound = False
    arguments = call["arguments"] or "{}" if sound else "{}"
    function = {"name": call["name"], "arguments": arguments}
    return {"id": call["id"], "type": "function", "function": function}
