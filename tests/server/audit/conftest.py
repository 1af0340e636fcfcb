"""The platform that may deliver to this machine, with a clock that the test turns, and a receiver."""

from collections.abc import Iterator

import pytest

from clock import Clock
from conftest import Tenant
from hooks import Hook, new_hook
from modelshare.server.settings import Settings
from receiver import Receiver, receiving


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhooks_allow_private": True})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
async def hook(owner: Tenant, receiver: Receiver) -> Hook:
    """Of the owner, for every event, to the receiver."""
    return await new_hook(owner, receiver.url)
