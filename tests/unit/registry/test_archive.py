import bz2
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelshare.server.registry.archive import ExtractedFile, extract, kind_of
from modelshare.server.registry.refused import ModelRejectedError
from modelshare.server.registry.tar.stream import ArchiveKind

FILES = {
    "config.json": b"{}",
    "1_Pooling/config.json": b'{"a": 1}',
    "model.safetensors": os.urandom(700_000),
    "empty": b"",
}
COMPRESS: dict[ArchiveKind, Callable[[bytes], bytes]] = {
    ArchiveKind.TAR: lambda data: data,
    ArchiveKind.TAR_GZ: gzip.compress,
    ArchiveKind.TAR_BZ2: bz2.compress,
    ArchiveKind.TAR_ZST: lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}


def tar_of(files: Mapping[str, bytes], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    return tar_with(((member(name, len(data)), data) for name, data in files.items()), tar_format)


def tar_with(members: Iterable[tuple[tarfile.TarInfo, bytes]], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def unpack(
    folder: Path, data: bytes, kind: ArchiveKind = ArchiveKind.TAR, *, max_bytes: int = 1 << 30, max_files: int = 100
) -> list[ExtractedFile]:
    archive = folder / f"model.{kind}"
    archive.write_bytes(data)
    return extract(archive, kind, folder / "out", max_bytes=max_bytes, max_files=max_files)


def assert_refused(folder: Path, data: bytes, because: str, kind: ArchiveKind = ArchiveKind.TAR, **limits: int) -> None:
    with pytest.raises(ModelRejectedError, match=because):
        unpack(folder, data, kind, **limits)
    assert [path.name for path in folder.iterdir()] == [f"model.{kind}"], "something was left behind"


@pytest.mark.parametrize("kind", ArchiveKind)
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./", "my model/", "./my model/"])
def test_every_kind_and_form_unpacks_to_the_same_files(
    tmp_path: Path, kind: ArchiveKind, tar_format: int, prefix: str
) -> None:
    data = tar_of({prefix + path: content for path, content in FILES.items()}, tar_format)
    found = unpack(tmp_path, COMPRESS[kind](data), kind)
    assert found == [
        ExtractedFile(path, len(content), hashlib.sha256(content).hexdigest())
        for path, content in sorted(FILES.items())
    ]
    assert {path: (tmp_path / "out" / path).read_bytes() for path in FILES} == FILES


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_accented_names(tmp_path: Path, tar_format: int) -> None:
    files = {"x/" + "d" * 120 + "/" + "é" * 100 + ".json": b"1", "y/z": b"2"}
    assert [file.path for file in unpack(tmp_path, tar_of(files, tar_format))] == sorted(files)


def test_tar_made_by_the_tar_program(tmp_path: Path) -> None:
    source = tmp_path / "source" / "model"
    for path, content in FILES.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, "model")
    found = extract(archive, kind_of(archive.name), tmp_path / "out", max_bytes=1 << 30)
    assert [file.path for file in found] == sorted(FILES)


def test_what_macos_adds_is_left_out(tmp_path: Path) -> None:
    data = tar_of({"._model": b"x", "model/a": b"1", "model/._a": b"x", "model/.DS_Store": b"x", "__MACOSX/b": b"x"})
    assert [file.path for file in unpack(tmp_path, data)] == ["a"]


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("../evil", "leave the model's folder"),
        ("a/../../evil", "leave the model's folder"),
        ("/etc/passwd", "absolute"),
        ("a\\b", "backslash"),
        ("C:/x", "character :"),
    ],
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_path_tricks_are_refused(tmp_path: Path, name: str, because: str, kind: bytes, tar_format: int) -> None:
    data = tar_with([(member("fine", 1), b"1"), (member(name, kind=kind), b"")], tar_format)
    assert_refused(tmp_path, data, because)


def test_path_tricks_in_an_extended_header_are_refused(tmp_path: Path) -> None:
    assert_refused(
        tmp_path, tar_with([(member("a", 1, pax_headers={"path": "../evil"}), b"1")]), "leave the model's folder"
    )


@pytest.mark.parametrize(
    ("kind", "because"),
    [
        (tarfile.SYMTYPE, "b in model.tar is a symbolic link; pack the file it points to instead"),
        (tarfile.CHRTYPE, "b in model.tar is a device or a pipe"),
        (tarfile.BLKTYPE, "b in model.tar is a device or a pipe"),
        (tarfile.FIFOTYPE, "b in model.tar is a device or a pipe"),
        (b"E", r"b in model.tar is an entry of a rare kind \(E\)"),
        (b"S", r"b in model.tar is an entry of a rare kind \(S\)"),
    ],
)
def test_links_devices_and_oddities_are_refused(tmp_path: Path, kind: bytes, because: str) -> None:
    data = tar_with([(member("a", 1), b"1"), (member("b", kind=kind, linkname="a"), b"")])
    assert_refused(tmp_path, data, because)


def test_long_link_is_refused(tmp_path: Path) -> None:
    data = tar_with([(member("b", kind=tarfile.SYMTYPE, linkname="/etc/" + "x" * 200), b"")], tarfile.GNU_FORMAT)
    assert_refused(tmp_path, data, "is a symbolic link")


def test_size_in_an_extended_header_counts(tmp_path: Path) -> None:
    data = tar_with([(member("a", 3), b"123")])
    block = bytearray(data[:512])
    block[124:136] = b"00000000000\0"
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 256)
    record = b"10 size=3\n"
    header = bytearray(tar_with([(member("x", len(record), tarfile.XHDTYPE), record)])[:1024])
    assert unpack(tmp_path, bytes(header) + bytes(block) + data[512:])[0].size == 3


@pytest.mark.parametrize(
    "body", [b"9 size=-3\n", b"x", b"99 path=a\n", b"0 a=b\n", b"10 size=3 ", b"20 hdrcharset=BINARY\n"]
)
def test_malformed_extended_headers_are_refused(tmp_path: Path, body: bytes) -> None:
    header = tar_with([(member("x", len(body), tarfile.XHDTYPE), body)])[:1024]
    assert_refused(tmp_path, header + tar_with([(member("a", 1), b"1")]), "not a valid tar archive")


def test_huge_extended_header_is_refused_unread(tmp_path: Path) -> None:
    header = member("x", 1 << 33, tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT)
    assert_refused(tmp_path, header, "not a valid tar archive")


def test_global_header_cannot_rename_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"path": "b"}) as tar:
        tar.addfile(member("a", 1), io.BytesIO(b"1"))
    assert_refused(tmp_path, buffer.getvalue(), "not a valid tar archive")


def test_global_comment_as_git_writes_it_is_ignored(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"comment": "0123abc"}) as tar:
        tar.addfile(member("a", 1), io.BytesIO(b"1"))
    assert [file.path for file in unpack(tmp_path, buffer.getvalue())] == ["a"]


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a", "A"), ("a", "a/b"), ("a/b", "a")])
def test_entries_that_would_overwrite_each_other_are_refused(tmp_path: Path, first: str, second: str) -> None:
    data = tar_with([(member(first, 1), b"1"), (member(second, 1), b"2")])
    assert_refused(tmp_path, data, "twice|case only|both a file and the folder")


def test_more_bytes_than_allowed_are_refused_before_they_are_written(tmp_path: Path) -> None:
    data = tar_of({"a": bytes(600)}, tarfile.GNU_FORMAT)[:1536] + member("b", 1 << 40).tobuf(tarfile.GNU_FORMAT)
    assert_refused(tmp_path, data, "1,000 bytes that are left", max_bytes=1_000)


def test_exactly_the_allowed_bytes_pass(tmp_path: Path) -> None:
    assert unpack(tmp_path, tar_of({"a": bytes(600), "b": bytes(400)}), max_bytes=1_000)


@pytest.mark.parametrize("kind", [ArchiveKind.TAR_GZ, ArchiveKind.TAR_BZ2, ArchiveKind.TAR_ZST])
def test_bomb_is_refused_by_its_ratio(tmp_path: Path, kind: ArchiveKind) -> None:
    bomb = COMPRESS[kind](tar_of({"zeros.safetensors": bytes(80 << 20)}))
    assert len(bomb) < 200_000
    assert_refused(tmp_path, bomb, "far more than its own size", kind)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, tar_of({str(n): b"" for n in range(11)}), "more than 10 files", max_files=10)


def test_too_many_entries_that_are_no_files_are_refused(tmp_path: Path) -> None:
    data = tar_with((member(f"d{n}", kind=tarfile.DIRTYPE), b"") for n in range(41))
    assert_refused(tmp_path, data, "too many entries", max_files=10)


@pytest.mark.parametrize("kind", ArchiveKind)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_truncated_archive_is_refused(tmp_path: Path, kind: ArchiveKind, share: float) -> None:
    data = COMPRESS[kind](tar_of({"a": os.urandom(100_000), "b": os.urandom(1000)}))
    assert_refused(tmp_path, data[: int(len(data) * share)], "truncated|damaged", kind)


def test_archive_without_its_end_mark_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, tar_of({"a": b"1"})[:1024], "truncated")


def test_damaged_checksum_of_the_packed_stream_is_noticed(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar_of({"a": b"1"})))
    data[-6] ^= 0xFF
    assert_refused(tmp_path, bytes(data), "damaged", ArchiveKind.TAR_GZ)


def test_data_after_the_end_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, tar_of({"a": b"1"}) + b"more", "after its end")


@pytest.mark.parametrize("kind", ArchiveKind)
def test_other_content_is_refused(tmp_path: Path, kind: ArchiveKind) -> None:
    assert_refused(tmp_path, b"PK\x03\x04" * 500, "not a valid tar|damaged or of another format", kind)


def test_archive_without_files_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, tar_with([(member("model", kind=tarfile.DIRTYPE), b"")]), "contains no files")


def test_modes_of_the_archive_are_not_taken_over(tmp_path: Path) -> None:
    unpack(tmp_path, tar_with([(member("a", 1, mode=0o6777), b"1"), (member("b", 1), b"2")]))
    assert (tmp_path / "out" / "a").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.tar", "tar"),
        ("A.TAR.GZ", "tar.gz"),
        ("m.tgz", "tar.gz"),
        ("m.v1.tar.bz2", "tar.bz2"),
        ("m.tar.zst", "tar.zst"),
    ],
)
def test_kind_of_file_names(name: str, kind: str) -> None:
    assert kind_of(name) == ArchiveKind(kind)


@pytest.mark.parametrize("name", ["a.zip", "tar", "a.gz", "a.tar.xz", ""])
def test_other_kinds_are_refused(name: str) -> None:
    with pytest.raises(ModelRejectedError, match=r"\.tar\.zst"):
        kind_of(name)


BASE = tar_of({"model/config.json": b"{}", "model/" + "n" * 120: b"1" * 600})


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(st.tuples(st.integers(0, len(BASE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damage_anywhere_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(BASE)
    for position, value in damage:
        data[position] = value
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "inner").mkdir()
    try:
        unpack(folder / "inner", bytes(data))
    except ModelRejectedError:
        assert not (folder / "inner" / "out").exists()
    assert [path.name for path in folder.iterdir()] == ["inner"]
