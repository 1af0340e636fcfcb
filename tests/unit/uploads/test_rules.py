import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.registry.refused import ModelRejectedError
from modelshare.server.registry.uploads.rules import (
    WantedFile,
    check_names,
    gigabytes,
    is_same_push,
    next_version,
    quota_refusal,
    wanted_files,
)
from modelshare.wire.uploads import ArchiveEntry, FileEntry, UploadOpen


@pytest.mark.parametrize(
    ("taken", "following"),
    [
        ([], "1.0.0"),
        (["1.0.0"], "1.0.1"),
        (["1.0.9", "1.0.10"], "1.0.11"),
        (["2.0.0", "1.9.9"], "2.0.1"),
        (["1.1.0-rc.1", "1.0.7"], "1.1.1"),
        (["1.0.0+build.5"], "1.0.1"),
    ],
)
def test_next_version(taken: Sequence[str], following: str) -> None:
    assert next_version(taken) == following


@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 3), min_size=1))
def test_next_version_is_above_all(cores: list[tuple[int, int, int]]) -> None:
    following = next_version(f"{a}.{b}.{c}" for a, b, c in cores)
    assert tuple(map(int, following.split("."))) > max(cores)


def session(*files: WantedFile) -> dict[str, WantedFile]:
    return {file.path: file for file in files}


A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("again", "same"),
    [
        ([WantedFile("x", 1, A), WantedFile("y", 2)], True),
        ([WantedFile("y", 2), WantedFile("x", 1)], True),
        ([WantedFile("y", 2, B), WantedFile("x", 1, A)], True),
        ([WantedFile("x", 1, B), WantedFile("y", 2)], False),
        ([WantedFile("x", 1, A), WantedFile("y", 3)], False),
        ([WantedFile("x", 1, A)], False),
        ([WantedFile("x", 1, A), WantedFile("z", 2)], False),
        ([WantedFile("x", 1, A), WantedFile("y", 2), WantedFile("z", 3)], False),
    ],
)
def test_is_same_push(again: list[WantedFile], same: bool) -> None:
    assert is_same_push(session(WantedFile("x", 1, A), WantedFile("y", 2)), again) is same


def test_quota_is_a_limit_one_may_reach() -> None:
    assert quota_refusal(needed=40, stored=60, quota=100) is None
    assert quota_refusal(needed=0, stored=200, quota=200) is None


def test_quota_refusal_has_the_numbers() -> None:
    refusal = quota_refusal(needed=30_000_000_000, stored=90_000_000_000, quota=100_000_000_000)
    assert refusal is not None
    assert refusal.startswith("This push needs 30.00 GB, but your project has 10.00 GB of its 100.00 GB left.")


def test_quota_refusal_where_the_quota_was_lowered() -> None:
    refusal = quota_refusal(needed=1, stored=200, quota=100)
    assert refusal is not None
    assert "has 0 bytes of its 100 bytes left" in refusal


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (1, "1 byte"), (9_999_999, "9,999,999 bytes"), (10_000_000, "0.01 GB")]
)
def test_gigabytes(size: int, text: str) -> None:
    assert gigabytes(size) == text


def test_wanted_files() -> None:
    request = UploadOpen(name="m", files=[FileEntry(path="a", size=1, sha256=A), FileEntry(path="b", size=0)])
    assert wanted_files(request) == [WantedFile("a", 1, A), WantedFile("b", 0, None)]
    assert wanted_files(UploadOpen(name="m", archive=ArchiveEntry(filename="m.tar", size=5))) == [
        WantedFile("m.tar", 5)
    ]


def test_patterns_and_files_together_take_no_long_time() -> None:
    deep = "/".join(["a"] * 120)
    files = [FileEntry(path=f"{deep}/.env{n}", size=1) for n in range(2000)]
    include = [f"a*/**/a*/**/a*/**/a*/x{n}" for n in range(200)]
    began = time.process_time()
    with pytest.raises(ModelRejectedError, match="too many patterns for so many files"):
        check_names(UploadOpen(name="m", files=files, include=include), allow_pickle=False)
    plain = [FileEntry(path=f"{deep}/{n}.gguf", size=1) for n in range(2000)]
    check_names(UploadOpen(name="m", files=plain, include=include), allow_pickle=False)
    assert time.process_time() - began < 10
