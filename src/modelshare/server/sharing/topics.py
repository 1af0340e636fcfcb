"""What other processes are told about."""

from typing import Final

SHARES_TOPIC: Final = "shares"
"""To whom a model shows, its role, or its recall changed; the subject is the model's id."""
