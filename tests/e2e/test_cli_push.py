"""`modelshare push` against a real server: cut, gone on with, changed underneath, refused."""

import hashlib
import os
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelshare.cli.exit_codes import ExitCode
from modelshare.client import Client, part_urls
from modelshare.client.call import Call
from modelshare.client.errors import from_answer
from modelshare.client.push import push_model
from modelshare.wire.keys import ProjectWithKey
from modelshare.wire.uploads import PartUrlsRequest, Upload
from programs import MODELSHARE, Server, serving, stop, wait_until
from shell import Shell, shell, write_model
from stalling import stalling_after
from storage_servers import s3_server
from uploading import PART, tar_of, tiny_model

SIZE = 16 * PART
"""Of the weights that are cut midway: more than what is hashed before it is sent."""


@pytest.fixture
def owner(server: Server, project: ProjectWithKey, tmp_path: Path) -> Shell:
    return shell(server.url, project.api_key, tmp_path / "owner")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of many parts."""
    return write_model(tmp_path_factory.mktemp("models") / "large", pad=SIZE)


def cut(
    owner: Shell, client: Client, path: Path, how: signal.Signals
) -> tuple[Upload, subprocess.CompletedProcess[str]]:
    """Pushes until a part is there, then sends the signal; the session as it is left."""
    words = [*MODELSHARE, "push", str(path), "--name", "large", "--jobs", "1"]
    with stalling_after(client.config.url, SIZE // 2) as url:
        process = subprocess.Popen(
            words,
            env=owner.environment | {"MODELSHARE_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=owner.folder,
        )

        def begun() -> Upload | None:
            assert process.poll() is None, "the push was over before it could be cut"
            return next((upload for upload in client.uploads.list() if upload.bytes_done >= PART), None)

        upload = wait_until(begun, "a part is there")
        process.send_signal(how)
    stdout, stderr = process.communicate(timeout=120)
    return client.uploads.get(upload.id), subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


def digest_in_manifest(client: Client, model_id: str, path: str) -> str:
    client.models.share(model_id)
    files = client.catalog.get(model_id).manifest["files"]
    return next(str(file["sha256"]) for file in files if file["path"] == path)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_a_push_that_was_cut_sends_only_the_rest(
    owner: Shell, client: Client, large: Path, tmp_path: Path, how: signal.Signals
) -> None:
    left, result = cut(owner, client, large, how)
    if how is signal.SIGINT:
        assert result.returncode == ExitCode.INTERRUPTED
        assert result.stdout == ""
        assert "Run the same command within 24 hours" in result.stderr
    assert 0 < left.bytes_done < left.bytes_total
    # From another machine: another copy, with times of its own.
    copy = tmp_path / "copy"
    shutil.copytree(large, copy, copy_function=shutil.copyfile)
    pushed = push_model(client, copy, name="large")
    assert pushed.upload.id == left.id
    assert pushed.upload.bytes_done >= left.bytes_done  # a part on its way may still have arrived
    assert pushed.bytes_sent == pushed.upload.bytes_total - pushed.upload.bytes_done
    assert (pushed.model.status, pushed.version) == ("ready", "1.0.0")
    weights = "model.safetensors"
    assert digest_in_manifest(client, pushed.model.id, weights) == sha256(large / weights)


def test_a_file_that_changed_after_the_cut_is_sent_as_it_is_now(
    owner: Shell, client: Client, large: Path, tmp_path: Path
) -> None:
    """The sizes and so the session are the same; only the parts that differ are sent again."""
    left, _ = cut(owner, client, large, signal.SIGKILL)
    changed = tmp_path / "changed"
    shutil.copytree(large, changed)
    weights = changed / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(PART - 1)
        file.write(b"\x07\x07")  # the last byte of the first part, the first of the second
    pushed = push_model(client, changed, name="large")
    found = pushed.upload
    there = {k for file in found.files if file.path == weights.name for k in file.parts_done} & {0, 1}
    assert found.id == left.id
    assert there
    assert pushed.bytes_sent == found.bytes_total - found.bytes_done + len(there) * PART
    assert digest_in_manifest(client, pushed.model.id, weights.name) == sha256(weights)


def test_restart_drops_what_an_earlier_push_left(owner: Shell, client: Client, large: Path, tmp_path: Path) -> None:
    left, _ = cut(owner, client, large, signal.SIGKILL)
    other = ("push", str(write_model(tmp_path / "other")), "--name", "large", "--version", "1.0.0")
    assert "Cancel its open upload" in owner.refused(*other)
    assert owner.json(*other, "--restart")["version"] == "1.0.0"
    assert client.uploads.get(left.id).state == "cancelled"


def test_what_is_stored_already_is_not_sent_again(client: Client, large: Path, tmp_path: Path) -> None:
    first = push_model(client, large, name="large")
    assert first.bytes_sent == first.upload.bytes_total
    again = push_model(client, large, name="large")
    assert (again.bytes_sent, again.version) == (0, "1.0.1")
    edited = tmp_path / "edited"
    shutil.copytree(large, edited)
    (edited / "README.md").write_text("A new card.")
    assert push_model(client, edited, name="twin").bytes_sent == len("A new card.")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "zst"])
def test_archives(owner: Shell, tmp_path: Path, mode: str) -> None:
    files = tiny_model(pad=PART)
    path = tmp_path / {"w": "m.tar", "w:gz": "m.tar.gz", "w:bz2": "m.tar.bz2", "zst": "m.tar.zst"}[mode]
    if mode == "zst":
        zstandard = pytest.importorskip("zstandard")
        path.write_bytes(zstandard.compress(tar_of(files, mode="w")))
    else:
        path.write_bytes(tar_of(files, mode=mode))
    model = owner.json("push", str(path))
    assert (model["name"], model["status"], model["architecture"]) == ("m", "ready", "LlamaForCausalLM")


def test_no_wait_leaves_the_rest_to_the_server(owner: Shell, client: Client, tmp_path: Path) -> None:
    result = owner.run("push", str(write_model(tmp_path / "quick")), "--no-wait")
    assert result.returncode == 0
    model_id = result.stdout.strip()
    wait_until(lambda: client.models.get(model_id).status == "ready", "it is ready")


def test_a_version_is_the_one_that_was_asked_for(owner: Shell, client: Client, tmp_path: Path) -> None:
    path = str(write_model(tmp_path / "versioned"))
    assert owner.json("push", path, "--version", "2.1.0")["version"] == "2.1.0"
    assert owner.json("push", path)["version"] == "2.1.1"
    assert "already has a version 2.1.0" in owner.refused("push", path, "--version", "2.1.0")
    owner.refused("push", path, "--version", "two", code=ExitCode.USAGE)
    assert "2.1.1" in owner.says("models", "versions", "versioned")
    assert owner.json("models", "rollback", "versioned", "2.1.0")["version"] == "2.1.0"
    assert owner.json("models", "promote", "versioned", "2.1.1")["version"] == "2.1.1"
    assert "no ready version" in owner.refused("models", "promote", "versioned", "9.9.9")


def _truncated(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:20])


def _vast_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")


@pytest.mark.parametrize("damage", [_truncated, _vast_header])
def test_what_the_server_refuses_is_told_with_its_reason(
    owner: Shell, client: Client, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(write_model(tmp_path / "damaged"))
    line = owner.refused("push", str(tmp_path / "damaged"))
    [model] = client.models.list()
    assert model.status == "failed"
    assert model.status_reason
    assert line == f"Error: {model.status_reason}"


def test_a_pickle_is_refused_before_anything_is_sent(owner: Shell, client: Client, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin is a Python pickle" in owner.refused("push", str(folder))
    assert (list(client.models.list()), list(client.uploads.list())) == ([], [])


def test_what_is_left_out_and_what_looks_like_a_key_is_said(owner: Shell, client: Client, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "careless")
    secret = "hf_" + "aB1" * 12
    for name in (".env", "id_rsa", "wandb/run/a", ".gitattributes", "notes.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("SECRET=1\n")
    (folder / "train.py").write_text(f"login(\n    token={secret!r})\n")
    said = owner.says("push", str(folder), "--include", ".env", "--exclude", "notes.md")
    assert "Left out: id_rsa (may hold a password or key), wandb/ (log of a training run)" in said
    assert "notes.md (as you asked)" in said
    assert "Warning: train.py, line 2, appears to contain a Hugging Face token." in said
    [model] = client.models.list()
    client.models.share(model.id)
    paths = {file["path"] for file in client.catalog.get(model.id).manifest["files"]}
    assert paths == {*tiny_model(), ".env", ".gitattributes", "train.py"}
    shared = owner.says("share", "careless")
    assert "Note: train.py, line 2, appears to contain a Hugging Face token." in shared
    assert secret not in said + shared


def test_a_push_that_was_left_has_a_way_out(owner: Shell, client: Client, large: Path) -> None:
    left, _ = cut(owner, client, large, signal.SIGKILL)
    assert owner.json("uploads", "list")[0]["id"] == left.id
    assert left.version in owner.says("uploads", "list", "--name", "large")
    other = str(write_model(owner.folder / "other"))
    line = owner.refused("push", other, "--name", "large", "--version", left.version)
    assert f"`modelshare uploads cancel {left.id}`" in line
    assert "is cancelled; the uploaded data was deleted" in owner.says("uploads", "cancel", left.id)
    assert "No open uploads." in owner.says("uploads", "list")
    assert owner.json("uploads", "list", "--all")[0]["state"] == "cancelled"
    assert "There is no such upload" in owner.refused("uploads", "cancel", "x")
    owner.says("push", other, "--name", "large", "--version", left.version)


def test_a_path_out_of_an_archive_is_refused(owner: Shell, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for name, member in (("config.json", "../evil.json"), ("model.safetensors", "model.safetensors")):
            tar.add(write_model(tmp_path / "m") / name, member)
    assert "evil" in owner.refused("push", str(tmp_path / "evil.tar"))


def test_a_quota_is_told_before_the_first_byte(server: Server, tmp_path: Path, large: Path) -> None:
    with serving(tmp_path / "small", projects_quota_bytes="1000000") as small:
        here = shell(small.url, small.project("poor").api_key, tmp_path / "here")
        line = here.refused("push", str(large))
    assert "quota" in line
    assert "Sending" not in line


def test_a_push_outlives_a_restart_of_the_server(tmp_path: Path, large: Path) -> None:
    """It stalls until the server is killed; the next one listens where the push goes on sending."""
    settings = {"uploads_part_size": str(PART)}
    with serving(tmp_path / "platform", port=0, **settings) as before:
        project, platform_key = before.project("acme"), before.platform_key
        with stalling_after(before.url, SIZE // 2) as url, before.client(project) as client:
            here = shell(url, project.api_key, tmp_path / "here")
            words = [*MODELSHARE, "push", str(large), "--jobs", "2", "--json"]
            push = subprocess.Popen(
                words, env=here.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            wait_until(lambda: any(upload.bytes_done for upload in client.uploads.list()), "the first part is there")
            os.killpg(before.process.pid, signal.SIGKILL)
            before.process.wait()
    try:
        port = int(url.rpartition(":")[2])
        with serving(tmp_path / "platform", port=port, platform_key=platform_key, **settings):
            stdout, stderr = push.communicate(timeout=120)
        assert push.returncode == 0, stderr
        assert '"status": "ready"' in stdout
    finally:
        stop(push)


def test_parts_go_straight_to_a_bucket(tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(tmp_path / "s3") as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        with serving(tmp_path / "platform", storage_url=bucket.url, uploads_part_size=str(PART)) as server:
            project = server.project("acme")
            here = shell(server.url, project.api_key, tmp_path / "here")
            with server.client(project) as client:
                left, _ = cut(here, client, large, signal.SIGKILL)
                assert left.direct
                pushed = push_model(client, large, name="large")
                assert pushed.bytes_sent < left.bytes_total
                weights = "model.safetensors"
                assert digest_in_manifest(client, pushed.model.id, weights) == sha256(large / weights)


def test_urls_of_a_bucket_are_requested_for_many_parts_and_used_while_they_are_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "model", pad=3 * PART)
    with s3_server(tmp_path / "s3") as bucket:
        for name, value in bucket.environ.items():
            monkeypatch.setenv(name, value)
        with serving(tmp_path / "platform", storage_url=bucket.url, uploads_part_size=str(PART)) as server:
            project = server.project("acme")
            with server.client(project) as client:
                asked: list[int] = []
                send = client.http.send

                def noted(call: Call[Any]) -> Any:
                    if isinstance(call.body, PartUrlsRequest):
                        asked.append(len(call.body.parts))
                    return send(call)

                monkeypatch.setattr(client.http, "send", noted)
                push_model(client, folder, name="fresh", jobs=1)
                assert asked == [6]
                asked.clear()
                (folder / "README.md").write_text("Other.")
                monkeypatch.setattr(part_urls, "FRESH_SECONDS", 0)
                with (folder / "model.safetensors").open("r+b") as weights:
                    weights.seek(-1, os.SEEK_END)
                    weights.write(b"!")
                assert push_model(client, folder, name="old", jobs=1).model.status == "ready"
                assert asked == [5, 4, 3, 2, 1]

                def of_the_version_before(call: Call[Any]) -> Any:
                    if isinstance(call.body, PartUrlsRequest):
                        raise from_answer(
                            404, {}, b'{"error": {"message": "No such path.", "type": "not_found_error"}}'
                        )
                    return send(call)

                monkeypatch.setattr(client.http, "send", of_the_version_before)
                (folder / "README.md").write_text("Another.")
                assert push_model(client, folder, name="before").model.status == "ready"
