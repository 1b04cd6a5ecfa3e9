"""What an emitter raises where a tool that it needs is not installed."""


class Skip(Exception):
    """The message says which tool, and how to get it."""
