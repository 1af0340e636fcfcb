"""What the fleet tells every process of."""

from typing import Final

AGENTS_TOPIC: Final = "agents"
"""Notification that an agent came, went or changed; the subject is its id."""
DESIRED_TOPIC: Final = "desired"
"""Notification that what an agent is to hold changed; the subject is its id."""
READY_TOPIC: Final = "ready"
"""Notification that a version is ready on another set of linked agents; the subject is the version's id."""
DEPLOYMENTS_TOPIC: Final = "deployments"
"""Notification that an agent reported something; the subject is its id."""
