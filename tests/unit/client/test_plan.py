from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from modelshare.client.plan import files_to_hash, missing_parts, opening, parts_to_compare
from modelshare.client.source import LocalFile, PushSource
from modelshare.wire.uploads import Upload, UploadFile, UploadState

PART = 10


def local(path: str, size: int) -> LocalFile:
    return LocalFile(path, Path("/nowhere") / path, size, 0.0)


def source(*files: tuple[str, int], is_archive: bool = False) -> PushSource:
    return PushSource(tuple(local(*file) for file in files), is_archive, None)


def upload(files: list[UploadFile], **changes: object) -> Upload:
    values = {
        "id": "u1", "model": "m1", "name": "chat", "version": "1.0.0", "state": UploadState.OPEN, "part_size": PART,
        "direct": False, "files": files, "bytes_total": 0, "bytes_done": 0, "created_at": 0, "expires_at": 0,
    }  # fmt: skip
    return Upload.model_validate(values | changes)


def session_file(n: int, path: str, size: int, done: list[int] | None = None, *, reused: bool = False) -> UploadFile:
    return UploadFile(n=n, path=path, size=size, parts=-(-size // PART), parts_done=done or [], reused=reused)


@st.composite
def session_files(draw: st.DrawFn) -> list[UploadFile]:
    sizes = draw(st.lists(st.integers(0, 100), min_size=1, max_size=8))
    files = []
    for n, size in enumerate(sizes):
        count = -(-size // PART)
        done = draw(st.lists(st.integers(0, count - 1), unique=True)) if count else []
        files.append(session_file(n, f"file{n}", size, done, reused=draw(st.booleans())))
    return files


@given(session_files())
def test_what_is_there_and_what_is_sent_is_every_byte_once(files: list[UploadFile]) -> None:
    parts = [part for _, part in missing_parts(upload(files))]
    for file in files:
        spans = [(part.offset, part.offset + part.size) for part in parts if part.n == file.n]
        if file.reused:
            assert spans == []
            continue
        there = [(k * PART, min((k + 1) * PART, file.size)) for k in file.parts_done]
        edges = [0, *(end for _, end in sorted(spans + there))]
        assert edges == [*(start for start, _ in sorted(spans + there)), file.size]


@given(session_files(), st.data())
def test_a_part_that_changed_is_sent_again(files: list[UploadFile], data: st.DataObject) -> None:
    there = [(file.n, k) for file in files if not file.reused for k in file.parts_done]
    changed = data.draw(st.sets(st.sampled_from(there))) if there else set()
    usual = {(part.n, part.k) for _, part in missing_parts(upload(files))}
    again = {(part.n, part.k) for _, part in missing_parts(upload(files), changed)}
    assert again - usual == changed
    assert usual <= again


def test_what_is_there_is_compared_where_the_server_knows_it() -> None:
    files = [
        UploadFile(n=0, path="a", size=25, parts=3, parts_done=[0, 2], parts_sha256={2: "cc", 0: "aa"}, reused=False),
        session_file(1, "b", 10, [0]),
    ]
    compared = [
        (path, part.k, part.offset, part.size, digest) for path, part, digest in parts_to_compare(upload(files))
    ]
    assert compared == [("a", 0, 0, 10, "aa"), ("a", 2, 20, 5, "cc")]


@given(session_files())
def test_parts_come_in_the_order_they_lie_on_disk(files: list[UploadFile]) -> None:
    order = [(part.n, part.offset) for _, part in missing_parts(upload(files))]
    assert order == sorted(order)


def test_only_files_that_may_be_stored_already_are_hashed() -> None:
    opened = upload([session_file(3, "d", 1, [0])], hash_candidates=["a", "b", "d"])
    mine = source(("a", 1), ("b", 1), ("c", 1), ("d", 1))
    assert files_to_hash(opened, mine, {"b": "0" * 64}) == [local("a", 1)]


def test_the_request_of_a_directory_and_of_an_archive() -> None:
    directory = opening(source(("a", 1)), "chat", None, make_latest=True, digests={"a": "0" * 64})
    assert directory.model_dump(exclude_none=True) == {
        "name": "chat",
        "make_latest": True,
        "files": [{"path": "a", "size": 1, "sha256": "0" * 64}],
    }
    archive = opening(source(("m.tar", 9), is_archive=True), "chat", "1.2.3", make_latest=False, digests={})
    assert archive.model_dump(exclude_none=True) == {
        "name": "chat",
        "version": "1.2.3",
        "make_latest": False,
        "archive": {"filename": "m.tar", "size": 9},
    }
