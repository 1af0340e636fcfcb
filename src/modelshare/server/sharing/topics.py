"""Topics of notifications between processes."""

from typing import Final

SHARES_TOPIC: Final = "shares"
"""A model's audience, role or recall changed; the subject is the model's ID."""
