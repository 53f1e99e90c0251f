"""Lines of a task's logs, out of the API's events: pieces of text, cut anywhere. Pure."""

import json
from collections.abc import Iterable, Iterator

from wfhub_client.sse import Message


def lines(messages: Iterable[Message]) -> Iterator[str]:
    """To the event that ends them; `==> agent <==` where another log begins."""
    log, rest = "", ""
    for message in messages:
        if message.event == "end":
            break
        piece = json.loads(message.data)
        if piece["log"] != log:
            if rest:
                yield rest
            log, rest = piece["log"], ""
            yield f"==> {log} <=="
        *whole, rest = (rest + piece["text"]).split("\n")
        yield from whole
    if rest:
        yield rest
