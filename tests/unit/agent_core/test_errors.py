from modelshare.agent.errors import NoSpaceError


def test_a_full_disk_says_how_much_is_missing() -> None:
    error = NoSpaceError(needed=12_300_000_000, free=4_000_000_000)
    assert str(error).startswith("The weights need 12.3 GB, and 4.0 GB are free on the agent's disk")
