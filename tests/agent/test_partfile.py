"""The file of a pull in progress, and its journal, on a real disk."""

import hashlib
import os
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelshare.transfer.partfile import PIECE, PartFile

SIZE = 3 * PIECE + 100
DATA = os.urandom(SIZE)


def test_the_frontier_follows_the_first_hole(tmp_path: Path) -> None:
    with PartFile(tmp_path / "f", SIZE) as part:
        part.write(PIECE, DATA[PIECE : 2 * PIECE])
        assert part.frontier == 0
        part.write(0, DATA[:1000])
        assert part.frontier == 1000
        part.write(1000, DATA[1000:PIECE])
        assert part.frontier == 2 * PIECE
        assert list(part.missing()) == [2, 3]
        assert part.gap(2) == (2 * PIECE, 3 * PIECE)
        assert part.gap(3) == (3 * PIECE, SIZE)


def test_whole_pieces_are_remembered_and_halves_are_not(tmp_path: Path) -> None:
    with PartFile(tmp_path / "f", SIZE) as part:
        part.write(0, DATA[: PIECE + 1000])
    with PartFile(tmp_path / "f", SIZE) as part:
        assert part.bytes_done == PIECE
        assert list(part.missing()) == [1, 2, 3]


def test_writing_twice_counts_once(tmp_path: Path) -> None:
    with PartFile(tmp_path / "f", SIZE) as part:
        assert part.write(0, DATA[:1000]) == 1000
        assert part.write(0, DATA[:1500]) == 500
        assert part.bytes_done == 1500


def test_a_journal_that_claims_more_than_the_file_has_is_not_believed(tmp_path: Path) -> None:
    with PartFile(tmp_path / "f", SIZE) as part:
        part.write(0, DATA)
    os.truncate(tmp_path / "f.part", PIECE + 5)
    with PartFile(tmp_path / "f", SIZE) as part:
        assert list(part.missing()) == [1, 2, 3]


def test_a_journal_for_another_size_of_piece_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(DATA)
    (tmp_path / "f.pieces").write_bytes(b"\1" * 40)
    with PartFile(tmp_path / "f", SIZE) as part:
        assert part.bytes_done == 0


def test_publishing_gives_the_name_and_leaves_nothing_else(tmp_path: Path) -> None:
    with PartFile(tmp_path / "f", SIZE) as part:
        part.write(0, DATA)
        hasher = hashlib.sha256()
        assert part.feed(hasher, 0, SIZE) == SIZE
        assert hasher.digest() == hashlib.sha256(DATA).digest()
        part.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == DATA


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.permutations(range(4)), st.integers(0, 4))
def test_pieces_in_any_order_and_a_restart_anywhere_make_the_whole(
    tmp_path: Path, order: list[int], restart_after: int
) -> None:
    target = tmp_path / "f"
    for leftover in tmp_path.iterdir():
        leftover.unlink()
    for run in (order[:restart_after], order):
        with PartFile(target, SIZE) as part:
            for piece in run:
                start, end = part.gap(piece)
                part.write(start, DATA[start:end])
            if run is order:
                assert part.frontier == part.bytes_done == SIZE
                part.publish()
    assert target.read_bytes() == DATA
