import pytest

from modelshare.agent.errors import NoSpaceError, human_bytes


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (12_300_000_000, "12.3 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_sizes_read_as_people_say_them(count: int, words: str) -> None:
    assert human_bytes(count) == words


def test_a_full_disk_says_how_much_is_missing() -> None:
    error = NoSpaceError(needed=12_300_000_000, free=4_000_000_000)
    assert str(error).startswith("The weights need 12.3 GB, and 4.0 GB are free on the agent's disk")
