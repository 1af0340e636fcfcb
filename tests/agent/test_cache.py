"""The weights cache on a real folder: sharing, deletion, what a crash leaves, paths that lead out."""

import hashlib
import shutil
from pathlib import Path

import pytest

from modelshare.agent.cache import Cache, CachedFiles
from modelshare.agent.errors import DeploymentError, NoSpaceError
from modelshare.wire.link import DeploymentFile

DIGEST = "sha256:" + "a" * 64


def file(path: str, data: bytes) -> DeploymentFile:
    return DeploymentFile(path, len(data), hashlib.sha256(data).hexdigest())


def store(cache: Cache, data: bytes) -> None:
    cache.blob(hashlib.sha256(data).hexdigest()).write_bytes(data)


def test_a_view_shows_the_files_under_their_names(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    holding = CachedFiles("dep_1", DIGEST, [file("model.gguf", b"weights"), file("sub/config.json", b"{}")])
    cache.hold(holding)
    store(cache, b"weights")
    store(cache, b"{}")
    for _ in range(2):  # again, after a restart
        view = cache.view(holding)
        assert (view / "model.gguf").read_bytes() == b"weights"
        assert (view / "sub/config.json").read_bytes() == b"{}"
    assert (view / "model.gguf").stat().st_ino == cache.blob(holding.files[0].sha256).stat().st_ino


def test_weights_go_with_the_last_deployment_that_holds_them(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    shared, own = file("a", b"shared"), file("b", b"own")
    one, two = CachedFiles("dep_1", DIGEST, [shared, own]), CachedFiles("dep_2", "sha256:" + "b" * 64, [shared])
    for data in (b"shared", b"own"):
        store(cache, data)
    for holding in (one, two):
        cache.hold(holding)
        cache.view(holding)
        (cache.converted(holding.manifest_digest) / "model.gguf").write_bytes(b"made")
    cache.release("dep_1")
    assert (cache.has(shared), cache.has(own)) == (True, False)
    assert [path.name for path in (tmp_path / "converted").iterdir()] == ["b" * 64]
    cache.release("dep_2")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_weights_that_could_not_be_deleted_count_as_held(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    held = CachedFiles("dep_1", DIGEST, [file("a", b"stubborn")])
    cache.hold(held)
    obstacle = cache.blob(held.files[0].sha256)
    obstacle.mkdir()  # what is no file cannot be deleted as one
    with pytest.raises(OSError, match=obstacle.name):
        cache.release("dep_1")
    assert cache.holdings() == [held]
    obstacle.rmdir()
    cache.release("dep_1")
    assert cache.holdings() == []


def test_what_a_crash_left_is_swept_and_what_is_held_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    held = CachedFiles("dep_1", DIGEST, [file("a", b"half pulled")])
    cache.hold(held)
    part = cache.blob(held.files[0].sha256).with_suffix(".part")
    part.write_bytes(b"half")
    store(cache, b"orphan")
    (tmp_path / "views" / "dep_9.new").mkdir()
    again = Cache(tmp_path)
    again.sweep()
    assert again.holdings() == [held]
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [part.name]
    assert not list((tmp_path / "views").iterdir())


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a//b", "a/./b", "a\\..\\b", "", "a\0b"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(DeploymentError, match="leads outside its folder"):
        Cache(tmp_path).hold(CachedFiles("dep_1", DIGEST, [file(path, b"x")]))


@pytest.mark.parametrize("name", ["../dep", "", ".", "a/b", "x" * 200])
def test_deployment_ids_that_cannot_name_a_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DeploymentError):
        Cache(tmp_path).hold(CachedFiles(name, DIGEST, []))


def test_a_digest_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError):
        Cache(tmp_path).hold(CachedFiles("dep_1", DIGEST, [DeploymentFile("a", 1, "../../x")]))


def test_too_much_for_the_disk_is_refused_in_words(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    huge = CachedFiles("dep_1", DIGEST, [DeploymentFile("model.gguf", 10**18, "0" * 64)])
    with pytest.raises(NoSpaceError, match=r"The weights need 1000000\.0 TB, and .* are free on"), cache.room_for(huge):
        pass


def test_room_is_counted_over_all_pulls_and_given_back(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    free = shutil.disk_usage(tmp_path).free
    limit = CachedFiles("dep_1", DIGEST, [DeploymentFile("a", int(free * 0.7), "1" * 64)])
    other = CachedFiles("dep_2", DIGEST, [DeploymentFile("b", int(free * 0.7), "2" * 64)])
    with cache.room_for(limit):
        with pytest.raises(NoSpaceError), cache.room_for(other):
            pass
        with cache.room_for(CachedFiles("dep_3", DIGEST, limit.files)):  # the same file needs its room once
            pass
    with cache.room_for(other):
        pass


def test_a_damaged_record_is_no_reason_not_to_start(tmp_path: Path) -> None:
    Cache(tmp_path).hold(CachedFiles("dep_1", DIGEST, []))
    (tmp_path / "holdings" / "dep_2.json").write_text("{")
    assert [one.deployment_id for one in Cache(tmp_path).holdings()] == ["dep_1"]
