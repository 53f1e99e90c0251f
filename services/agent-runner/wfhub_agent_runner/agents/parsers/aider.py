"""`aider-text`: aider has no output for programs; what its lines surely mean is read.

The model's words stand between the lines that aider itself prints. An edit is a block
`<<<<<<< SEARCH … >>>>>>> REPLACE` in them, and "Applied edit to FILE" once it is done.
"""

import re
from collections.abc import Iterable, Iterator

from wfhub_agent_runner.agents.parsers import events as e
from wfhub_agent_runner.agents.parsers.reading import Line

_APPLIED = re.compile(r"Applied edit to (.+)")
_TOKENS = re.compile(r"Tokens: ([\d.]+)(k?) sent, (?:.*, )?([\d.]+)(k?) received")
_FAILED = re.compile(
    r"litellm\.\w*(?:Error|Exception)\b.*|.*SEARCH/REPLACE blocks? failed to match.*"
)
_OWN = re.compile(
    r"(Aider v|Model: |Main model: |Weak model: |Git repo|Repo-map|Added |Warning|Update git|"
    r"You can skip|Can't initialize|Scanning repo|Initial repo|Cost: |Use /help)"
)


def events(lines: Iterable[Line]) -> Iterator[e.Event]:
    said: list[str] = []
    steps = 0
    for line in lines:
        text = line if isinstance(line, str) else e.plain(line)
        if tokens := _TOKENS.match(text):
            steps += 1
            yield e.step(steps)
            if spoken := "\n".join(said).strip():
                yield e.message(spoken)
            said = []
            sent, k, received, also_k = tokens.groups()
            yield e.usage(_count(sent, k), _count(received, also_k))
        elif applied := _APPLIED.match(text):
            yield e.tool_call(applied[1], "edit", applied[1])
            yield e.tool_result(applied[1], "", ok=True)
        elif _FAILED.match(text):
            yield e.error(text)
        elif not _OWN.match(text):
            said.append(text)


def _count(number: str, thousands: str) -> int:
    try:
        return round(float(number) * (1000 if thousands else 1))
    except ValueError:  # "1.2.3"
        return 0
