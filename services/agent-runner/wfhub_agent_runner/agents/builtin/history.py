"""The history of a session: what is sent with each request, and how it is made shorter.

It is the system's words, the task, and turns; a turn is an answer of the model and what was given
for it, which belong together. Sizes are estimates in tokens (CHARS_PER_TOKEN); a server that says
that the context is full counts for more than they do.
Made shorter in two steps: what tools printed and files that were written are left out of old
turns; if that is not enough, old turns give way to a summary that the model writes, and the plan.
"""

from __future__ import annotations

import json
from typing import Any, Callable  # noqa: UP035 - Python 3.8

from .events import clipped

CHARS_PER_TOKEN = 3
CONTEXT_TOKENS = 100_000  # taken for the model's, unless WFHUB_CONTEXT_TOKENS says otherwise
FULL = 0.75  # of the context: from there on the history is made shorter
AIM = 0.6  # of the context: what it is to be afterwards
TURNS_WHOLE = 3  # the last turns, which stay as they are as long as they can
OLD_CHARS_MAX = 400  # of one result, or of one argument, in an old turn
SUMMARY_CHARS_MAX = 12_000

SUM_UP = (
    "The conversation is too long to go on with, and what came before will be taken away. Do not "
    "call a tool. Write down what you need to go on with the task: what you found out, what you "
    "changed in which file, what you tried and what came of it, what is left to do."
)
NO_SUMMARY = "(No summary could be made. Look at `git diff` for what was changed so far.)"

Message = dict[str, Any]


class History:
    def __init__(self, system: str, prompt: str, *, context_tokens: int) -> None:
        self.head: list[Message] = [
            {"role": "system", "content": system},
            {"role": "user", "content": prompt},
        ]
        self.summary: list[Message] = []
        self.turns: list[list[Message]] = []
        self.context_tokens = context_tokens

    def messages(self) -> list[Message]:
        return [*self.head, *self.summary, *(each for turn in self.turns for each in turn)]

    def tokens(self) -> int:
        return len(json.dumps(self.messages())) // CHARS_PER_TOKEN

    def is_full(self) -> bool:
        return self.tokens() > self.context_tokens * FULL

    def overflowed(self) -> None:
        """The server says that what was sent is too long: the context is smaller than thought."""
        self.context_tokens = min(self.context_tokens, self.tokens())

    def shorten(self, *, plan: str, sum_up: Callable[[list[Message]], str]) -> None:
        """`sum_up(messages)` asks the model; "" when it has no answer to that."""
        aim = self.context_tokens * AIM
        kept = TURNS_WHOLE
        self.turns = [*map(thinned, self.turns[:-kept]), *self.turns[-kept:]]
        if self.tokens() <= aim:
            return
        said = sum_up(self._asking_for_summary())
        if not said:  # it is too long even for that
            self.turns = [thinned(turn) for turn in self.turns]
            said = sum_up(self._asking_for_summary())
        while kept > 0:  # as many of the last turns as fit beside the summary
            kept -= 1
            self.turns = self.turns[-kept:] if kept else []
            self.summary = [_summary(said, plan)]
            if self.tokens() <= aim:
                return
        prompt = self.head[1]["content"]
        self.head[1] = {"role": "user", "content": clipped(prompt, int(aim) * CHARS_PER_TOKEN // 2)}

    def _asking_for_summary(self) -> list[Message]:
        return [*self.messages(), {"role": "user", "content": SUM_UP}]


def _summary(said: str, plan: str) -> Message:
    text = f"Your work so far, in your own words:\n{clipped(said, SUMMARY_CHARS_MAX) or NO_SUMMARY}"
    return {"role": "user", "content": f"{text}\n\nYour plan:\n{plan}" if plan else text}


def thinned(turn: list[Message]) -> list[Message]:
    """The turn without most of what its tools printed and of what was written into files."""
    return [_thin(message) for message in turn]


def _thin(message: Message) -> Message:
    if message["role"] != "assistant":
        return {**message, "content": _thin_text(message["content"])}
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": [_thin_call(call) for call in message["tool_calls"]]}


def _thin_text(text: str) -> str:
    # Twice the room: what was thinned once is not thinned again.
    return clipped(text, OLD_CHARS_MAX) if len(text) > 2 * OLD_CHARS_MAX else text


def _thin_call(call: Message) -> Message:
    function = call["function"]
    given = {
        key: _thin_text(value) if isinstance(value, str) else value
        for key, value in json.loads(function["arguments"]).items()
    }
    return {**call, "function": {**function, "arguments": json.dumps(given)}}
