"""The inbox: what people say to the agent while it works, looked at between steps.

One that cannot be read is an empty one: the work goes on.
"""

from __future__ import annotations

import json
import urllib.request

ANSWER_BYTES_MAX = 4 * 1024 * 1024
READ_S_MAX = 5.0


class Inbox:
    def __init__(self, url: str) -> None:
        """An empty url: nobody has anything to say."""
        self.url, self.read = url, 0
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def news(self) -> tuple[list[str], bool]:
        """Messages not seen before, and whether to hand in what is there."""
        if not self.url:
            return [], False
        try:
            with self.opener.open(self.url, timeout=READ_S_MAX) as response:
                value = json.loads(response.read(ANSWER_BYTES_MAX))
            texts = [str(message["text"]) for message in value["messages"]]
            hand_in = value["hand_in"] is True
        except (OSError, ValueError, KeyError, TypeError):
            return [], False
        fresh, self.read = texts[self.read :], len(texts)
        return fresh, hand_in
