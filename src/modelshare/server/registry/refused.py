"""The one error by which a model's content is turned away."""

_SHOWN_CHARACTERS = 120


class ModelRejectedError(Exception):
    """The content cannot be accepted; `reason` is one sentence that names the file and says what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def printable(text: str) -> str:
    """`text` made fit for a sentence: one line, printable, of bounded length."""
    printable = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text[:_SHOWN_CHARACTERS])
    return printable + "…" if len(text) > _SHOWN_CHARACTERS else printable
