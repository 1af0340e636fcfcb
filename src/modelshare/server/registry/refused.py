"""The error for content that cannot be accepted as a model."""

_SHOWN_CHARACTERS = 120


class ModelRejectedError(Exception):
    """`reason` is shown to users: a sentence that names the file and says what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def printable(text: str) -> str:
    """`text` on one line, with escapes for unprintable characters, shortened to a bounded length."""
    printable = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[:_SHOWN_CHARACTERS])
    return printable + "…" if len(text) > _SHOWN_CHARACTERS else printable
