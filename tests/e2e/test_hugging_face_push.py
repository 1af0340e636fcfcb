"""Stock Hugging Face clients push models, to the platform and to projects' own buckets."""

import hashlib
import json
from pathlib import Path

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import BadRequestError, HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from hub_clients import PUSHED, Hub, files_in, written
from modelshare.client.errors import InvalidRequestError
from modelshare.server.hub.hugging_face.git_objects import git_oid
from uploading import broken_model
from uploading import tiny_model as smallest_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the client's own


@pytest.fixture(params=["lfs", "xet"])
def transfer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As LFS objects, or as the client comes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", request.param == "lfs")
    return str(request.param)


@pytest.mark.parametrize("hub", PUSHED, indirect=True)
def test_up_and_down_again(hub: Hub, tmp_path: Path, transfer: str) -> None:
    """Small files, one of several parts, an empty one, two with the same content, and a name that needs quoting."""
    name = f"round-{transfer}"
    folder = written(tmp_path / "model", smallest_model(pad=11 << 20))
    written(folder, {"sub/a copy é.bin.txt": b"x" * 200_000, "sub/b.txt": b"x" * 200_000, "empty.txt": b""})
    hub.api.create_repo(hub.repository(name))
    for _ in ("new", "unchanged, so that there is no other version"):
        hub.api.upload_folder(repo_id=hub.repository(name), folder_path=folder)
        assert hub.versions(name) == {"1.0.0": "ready"}
    hub.api.snapshot_download(hub.repository(name), local_dir=tmp_path / "out")
    assert files_in(tmp_path / "out") == files_in(folder)


@pytest.mark.parametrize("hub", ["bucket"], indirect=True)
def test_the_command(hub: Hub, tmp_path: Path) -> None:
    folder = written(tmp_path / "model", smallest_model(pad=200_000))
    name = hub.repository("command")
    up = hub.hf("upload", name, str(folder), "--revision", "v2.1.0-rc.1+build.5")
    assert up.returncode == 0, up.stderr
    assert hub.versions("command") == {"2.1.0-rc.1+build.5": "ready"}
    down = hub.hf("download", name, "--local-dir", str(tmp_path / "out"), "--revision", "2.1.0-rc.1+build.5")
    assert down.returncode == 0, down.stderr
    assert files_in(tmp_path / "out") == files_in(folder)
    refused = hub.hf("upload", name, str(folder), "--revision", "feature/x")
    assert refused.returncode != 0
    assert "feature/x" in refused.stderr + refused.stdout


def test_what_a_commit_does_not_name_is_carried_over(hub: Hub, tmp_path: Path, transfer: str) -> None:
    name = f"carried-{transfer}"
    api = hub.api
    api.create_repo(f"acme/{name}", private=True)
    api.create_repo(f"acme/{name}", exist_ok=True)
    first = api.upload_folder(
        repo_id=f"acme/{name}", folder_path=written(tmp_path / "model", smallest_model(pad=300_000))
    )
    assert first.oid == api.model_info(f"acme/{name}").sha
    api.upload_file(repo_id=f"acme/{name}", path_or_fileobj=b"# New\n", path_in_repo="README.md")
    changes: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        CommitOperationCopy("model.safetensors", "copy/model.safetensors"),
        CommitOperationAdd("notes.txt", b"notes"),
        CommitOperationDelete("README.md"),
    ]
    api.create_commit(repo_id=f"acme/{name}", operations=changes, commit_message="Several")
    assert hub.versions(name) == dict.fromkeys(["1.0.0", "1.0.1", "1.0.2"], "ready")
    found = files_in(Path(api.snapshot_download(f"acme/{name}", local_dir=tmp_path / "out")))
    weights = (tmp_path / "model/model.safetensors").read_bytes()
    config = (tmp_path / "model/config.json").read_bytes()
    expected = {"config.json": config, "model.safetensors": weights, "copy/model.safetensors": weights}
    assert found == expected | {"notes.txt": b"notes"}
    with pytest.raises(HfHubHTTPError, match="has changed since") as stale:
        api.create_commit(
            repo_id=f"acme/{name}",
            operations=[CommitOperationAdd("notes.txt", b"other")],
            commit_message="Stale",
            parent_commit=first.oid,
        )
    assert stale.value.response.status_code == 412


def test_a_revision_is_that_version_and_never_changes(hub: Hub, tmp_path: Path, transfer: str) -> None:
    name = f"versions-{transfer}"
    api, folder = hub.api, written(tmp_path / "model", smallest_model())
    api.create_repo(f"acme/{name}")
    for revision in ("2.0.0", "v2.1.0-rc.1+build.5", "2.0.0"):
        api.create_branch(f"acme/{name}", branch=revision, exist_ok=True)
        api.upload_folder(repo_id=f"acme/{name}", folder_path=folder, revision=revision)
    assert hub.versions(name) == {"2.0.0": "ready", "2.1.0-rc.1+build.5": "ready"}
    (folder / "config.json").write_bytes((folder / "config.json").read_bytes() + b"\n")
    with pytest.raises(HfHubHTTPError, match=r"Version 2\.0\.0 is published, and versions never change"):
        api.upload_folder(repo_id=f"acme/{name}", folder_path=folder, revision="2.0.0")
    hub.api.create_tag(f"acme/{name}", tag="3.0.0", revision="2.0.0")
    hub.api.create_tag(f"acme/{name}", tag="3.0.0", revision="3.0.0")
    assert hub.versions(name)["3.0.0"] == "ready"


def test_a_model_that_comes_file_by_file(hub: Hub, tmp_path: Path, transfer: str) -> None:
    """It is no version before it has what a model needs."""
    name, files = f"pieces-{transfer}", smallest_model(pad=200_000)
    api = hub.api
    api.create_repo(f"acme/{name}")
    for path in ("README.md", "model.safetensors"):
        api.upload_file(repo_id=f"acme/{name}", path_or_fileobj=files[path], path_in_repo=path)
        assert api.model_info(f"acme/{name}").sha
        assert {each["path"] for each in api_tree(hub, name)} >= {path}
    with pytest.raises(InvalidRequestError):
        hub.versions(name)
    api.upload_file(repo_id=f"acme/{name}", path_or_fileobj=files["config.json"], path_in_repo="config.json")
    assert hub.versions(name) == {"1.0.0": "ready"}
    assert files_in(Path(api.snapshot_download(f"acme/{name}", local_dir=tmp_path))) == files


def api_tree(hub: Hub, name: str) -> list[dict[str, object]]:
    url = f"{hub.endpoint}/api/models/acme/{name}/tree/main?recursive=true"
    return list(httpx.get(url, headers={"Authorization": f"Bearer {hub.key}"}).json())


def test_several_commits_of_one_upload_are_one_version(hub: Hub, tmp_path: Path) -> None:
    """The client commits a large folder in portions."""
    folder = written(tmp_path / "model", smallest_model())
    written(folder, {f"data/{n:03}.txt": f"{n}".encode() for n in range(260)})
    hub.api.create_repo("acme/large")
    hub.api.upload_folder(repo_id="acme/large", folder_path=folder)
    assert hub.versions("large") == {"1.0.0": "ready"}
    listed = hub.api.list_repo_tree("acme/large", recursive=True)
    assert {each.path: each.blob_id for each in listed if isinstance(each, RepoFile)} == {
        path: git_oid(content) for path, content in files_in(folder).items()
    }


def test_what_is_refused_says_why_and_changes_nothing(hub: Hub, tmp_path: Path, transfer: str) -> None:
    name = f"refused-{transfer}"
    api = hub.api
    api.create_repo(f"acme/{name}")
    folder = written(tmp_path / "model", smallest_model())
    refusals = {
        "sub/.env": "may hold a password",
        "pytorch_model.bin": "is a Python pickle",
        "con.txt": "device name on Windows",
    }
    for path, reason in refusals.items():
        bad = written(tmp_path / path.replace("/", "-"), {**smallest_model(), path: b"x"})
        with pytest.raises(BadRequestError, match=reason):
            api.upload_folder(repo_id=f"acme/{name}", folder_path=bad)
    with pytest.raises(BadRequestError, match=r"Version 1\.0\.0 was not accepted"):
        api.upload_folder(repo_id=f"acme/{name}", folder_path=written(tmp_path / "broken", broken_model()))
    api.upload_folder(repo_id=f"acme/{name}", folder_path=folder)
    assert hub.versions(name) == {"1.0.0": "ready"}
    assert files_in(Path(api.snapshot_download(f"acme/{name}", local_dir=tmp_path / "out"))) == files_in(folder)


def test_a_claim_that_is_not_true_fails_the_commit(hub: Hub) -> None:
    """The server reads what was sent: a digest is the client's claim."""
    true, false = b"\0" * 200_000, b"\1" * 200_000
    claimed = hashlib.sha256(true).hexdigest()
    key = {"Authorization": f"Bearer {hub.key}"}
    with httpx.Client(base_url=f"{hub.endpoint}", headers=key, timeout=60) as client:
        wish = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": claimed, "size": len(true)}]}
        [place] = client.post("/acme/liar.git/info/lfs/objects/batch", json=wish).json()["objects"]
        verify = place["actions"]["verify"]["href"]
        assert client.post(verify, json={"oid": claimed, "size": len(true)}).status_code == 404
        assert httpx.put(place["actions"]["upload"]["href"], content=false).is_success
        assert client.post(verify, json={"oid": claimed, "size": len(true)}).status_code == 200
        lines = [
            {"key": "header", "value": {"summary": "x"}},
            {"key": "lfsFile", "value": {"path": "model.gguf", "algo": "sha256", "oid": claimed, "size": len(true)}},
        ]
        answer = client.post("/api/models/acme/liar/commit/main", content="\n".join(map(json.dumps, lines)))
        assert answer.status_code == 400
        assert "does not match its announced SHA-256" in answer.headers["x-error-message"]
        unknown = hashlib.sha256(b"never sent").hexdigest()
        lines[1] = {"key": "lfsFile", "value": {"path": "model.gguf", "algo": "sha256", "oid": unknown, "size": 10}}
        answer = client.post("/api/models/acme/liar/commit/main", content="\n".join(map(json.dumps, lines)))
        assert "has not been uploaded" in answer.headers["x-error-message"]


def test_a_digest_grants_nothing_to_another_project(hub: Hub, tmp_path: Path) -> None:
    """Objects that another project has stored are to be sent like any other, and its models cannot be pushed to."""
    files = smallest_model(pad=200_000, seed=7)
    hub.api.create_repo("acme/secret")
    hub.api.upload_folder(repo_id="acme/secret", folder_path=written(tmp_path / "model", files))
    oid, size = hashlib.sha256(files["model.safetensors"]).hexdigest(), len(files["model.safetensors"])
    thief = hub.server.project("thief")
    with httpx.Client(base_url=f"{hub.endpoint}", headers={"Authorization": f"Bearer {thief.api_key}"}) as client:
        wish = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]}
        [place] = client.post(f"/{thief.slug}/x.git/info/lfs/objects/batch", json=wish).json()["objects"]
        assert "actions" in place
        line = {"key": "lfsFile", "value": {"path": "model.safetensors", "algo": "sha256", "oid": oid, "size": size}}
        answer = client.post(f"/api/models/{thief.slug}/x/commit/main", content=json.dumps(line))
        assert "has not been uploaded" in answer.headers["x-error-message"]
    api = hub.api_of(thief.api_key)
    with pytest.raises(RepositoryNotFoundError):
        api.upload_file(repo_id="acme/secret", path_or_fileobj=b"x", path_in_repo="x.txt")
    with pytest.raises(RepositoryNotFoundError):
        api.create_repo("acme/mine")


@pytest.mark.parametrize("hub", ["in_place", "held"], indirect=True)
def test_a_commit_does_not_copy_what_its_owner_keeps(hub: Hub, tmp_path: Path) -> None:
    """The owner gave the platform no copy, so a small change must not make one; a complete push is a version."""
    folder = written(tmp_path / "model", smallest_model(pad=200_000))
    hub.publish(folder, "kept")
    name = hub.repository("kept")
    with pytest.raises(HfHubHTTPError, match="stay where their owner keeps them"):
        hub.api.upload_file(repo_id=name, path_or_fileobj=b"# New\n", path_in_repo="README.md")
    assert hub.versions("kept") == {"1.0.0": "ready"}
    hub.api.snapshot_download(name, local_dir=tmp_path / "out")
    assert files_in(tmp_path / "out") == files_in(folder)
    written(folder, smallest_model(seed=1, pad=200_000))
    hub.api.upload_folder(repo_id=name, folder_path=folder)
    assert hub.versions("kept") == {"1.0.0": "ready", "1.0.1": "ready"}
