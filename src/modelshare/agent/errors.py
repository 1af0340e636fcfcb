"""Errors of an agent. Each message is one sentence for the operator; most are shown as a deployment's reason.

AgentError
├── StopError               the agent cannot continue (rejected, replaced, data folder in use): log the reason and exit
│   ├── RemovedError        it was removed from the fleet: delete all weights and exit
│   └── UnknownAgentError   the platform does not know it: exit
└── DeploymentError         one deployment failed; it is retried later
    ├── NoMemoryError
    ├── DamagedError        its files were damaged on the disk
    └── PullError           its files could not be downloaded
        ├── NoSpaceError
        └── GrantGoneError  the server no longer assigns the deployment to this agent
"""

from collections.abc import Sequence

from modelshare.wire.units import size


class AgentError(Exception):
    """Base class of all errors of an agent."""


class StopError(AgentError):
    """The agent cannot continue."""


class RemovedError(StopError):
    """The agent was removed from the fleet."""


class UnknownAgentError(StopError):
    """The platform does not know the agent's credential."""


class DeploymentError(AgentError):
    """One deployment failed."""


class NoMemoryError(DeploymentError):
    """The model does not fit into memory beside the models that are already served, which are kept."""

    def __init__(self, *, needed: int, taken: int, total: int) -> None:
        super().__init__(
            f"The model needs {size(needed)} of memory, and the models already served on the agent's machine use "
            f"{size(taken)} of its {size(total)}. Use a smaller model or a larger machine, or stop models that are no "
            "longer needed there."
        )


class DamagedError(DeploymentError):
    """Files have other bytes than when they were pulled."""

    def __init__(self, paths: Sequence[str]) -> None:
        more = f" and {len(paths) - 1} more file(s) were" if len(paths) > 1 else " was"
        super().__init__(f"{paths[0]}{more} damaged on the disk of the agent's machine, and will be pulled again.")


class PullError(DeploymentError):
    """A deployment's files could not be downloaded."""


class NoSpaceError(PullError):
    """The disk has no space for the files. The message contains no paths, since tenants can read it."""

    def __init__(self, *, needed: int, free: int) -> None:
        super().__init__(
            f"The weights need {size(needed)}, and {size(free)} are free on the agent's disk. "
            "The download continues once there is space."
        )


class GrantGoneError(PullError):
    """The server no longer assigns the deployment to this agent."""
