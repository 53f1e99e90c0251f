"""What went wrong, in words: of a tool, and of a model's server."""

import json


class ToolError(Exception):
    """A call that could not be carried out; the text is what the model gets for it."""


def said(body: str) -> str:
    """The message in an error's body, which all formats have at `error.message`; else the body."""
    try:
        message = json.loads(body)["error"]["message"]
    except (ValueError, TypeError, KeyError):
        return body
    return message if isinstance(message, str) and message else body
