"""Lines out of pieces of a log."""

import json

from wfhub_client.log_lines import lines
from wfhub_client.sse import Message


def piece(log: str, text: str) -> Message:
    return Message("x", "message", json.dumps({"log": log, "text": text}))


END = Message("", "end", "{}")


def test_pieces_are_cut_anywhere_and_each_log_has_a_header() -> None:
    pieces = [piece("agent", "on"), piece("agent", "e\ntwo\n\nthr"), piece("verify", "four\n"), END]
    shown = ["==> agent <==", "one", "two", "", "thr", "==> verify <==", "four"]
    assert list(lines(pieces)) == shown


def test_what_comes_behind_the_end_is_not_read() -> None:
    assert list(lines([piece("agent", "last"), END, piece("agent", "never")])) == [
        "==> agent <==",
        "last",
    ]
