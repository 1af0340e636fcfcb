"""Topics of notifications between processes."""

from typing import Final

AGENTS_TOPIC: Final = "agents"
"""An agent connected, disconnected or changed; the subject is its id."""
DESIRED_TOPIC: Final = "desired"
"""An agent's desired state changed; the subject is its id."""
READY_TOPIC: Final = "ready"
"""The set of connected agents that have a version ready changed; the subject is the version's id."""
DEPLOYMENTS_TOPIC: Final = "deployments"
"""An agent reported something; the subject is its id."""
