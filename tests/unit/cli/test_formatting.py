import pytest
import typer

from modelshare.cli.formatting import duration, number, size, size_of, when


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, ""), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"),
     (4_294_967_296, "4.3 GB"), (2 * 10**15, "2.0 PB"), (10**19, "10000.0 PB")],
)  # fmt: skip
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, ""), (0, "0"), (999, "999"), (32_768, "32.8K"), (7_240_000_000, "7.2B"), (10**12, "1.0T")],
)
def test_numbers(count: int | None, text: str) -> None:
    assert number(count) == text


def test_times() -> None:
    assert when(None) == ""
    assert when(1_700_000_000) == "2023-11-14 22:13"


@pytest.mark.parametrize(("seconds", "text"), [(-1, "1970-01-01 00:00"), (1 << 40, "9999-12-31 23:59")])
def test_times_beyond_the_calendar(seconds: int, text: str) -> None:
    assert when(seconds) == text


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86_400), (" 30d ", 2_592_000)])
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "0h", "-1h", "1.5h", "1 h", "1w", "٣h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="Invalid duration"):
        duration(text)


@pytest.mark.parametrize(("text", "count"), [("0GB", 0), ("500MB", 500_000_000), (" 2 tb", 2 * 10**12)])
def test_sizes_as_they_are_written(text: str, count: int) -> None:
    assert size_of(text) == count


@pytest.mark.parametrize("text", ["", "5", "GB", "-1GB", "1.5TB", "1  GB", "1GiB", "1PB", "٣GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="Invalid size"):
        size_of(text)
