"""Text of other libraries' errors for messages."""

from __future__ import annotations


def one_line(error: Exception) -> str:
    """Return the error's text on one line, or the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
