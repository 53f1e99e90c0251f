"""What a tool answers when it did not do what it was asked."""


class ToolError(Exception):
    """A call that could not be carried out; the text is what the model gets for it."""
