"""Names of models: unique in their project without regard to case. Pure."""


def key_of(name: str) -> str:
    """Equal for names that differ in case only. Names are ASCII, so every database folds them alike."""
    return name.lower()
