"""Stock Hugging Face clients read models, wherever these are stored."""

import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from huggingface_hub import HfFileSystem, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from model_signing._cli import main as model_signing

from hub_clients import KINDS, Hub, files_in
from modelshare.client.push import push_model
from modelshare.demo import tiny_model
from modelshare.wire import signing
from modelshare.wire.endpoints import EndpointCreate, EndpointPatch
from modelshare.wire.hub_tokens import token_of
from signing_keys import private_key, public_pem

FOLDER = "a folder é #1"
"""Of one file, as people call theirs."""
EVERYWHERE = pytest.mark.parametrize("hub", KINDS, indirect=True)


@pytest.fixture(scope="session", autouse=True)
def folder(hubs: Mapping[str, Hub], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every project has as `tiny`; the one on the platform also as 1.1.0-rc.1+build.5. Beside it, `gguf`."""
    base = tmp_path_factory.mktemp("models")
    folder, gguf = base / "tiny", base / "gguf"
    tiny_model.write_hf(folder)
    (folder / FOLDER).mkdir()
    (folder / FOLDER / "notes 1.txt").write_text("Übung")
    gguf.mkdir()
    tiny_model.write_gguf(gguf / "tiny-Q4_K_M.gguf")
    for hub in hubs.values():
        hub.publish(folder, "tiny")
        hub.publish(gguf, "gguf")
    hubs["platform"].publish(folder, "tiny", "1.1.0-rc.1+build.5")
    return folder


@pytest.mark.parametrize("revision", ["main", "1.0.0", "v1.0.0", "1.1.0-rc.1+build.5", "commit"])
def test_a_snapshot_of_every_kind_of_revision(hub: Hub, folder: Path, tmp_path: Path, revision: str) -> None:
    commit = hub.api.model_info("acme/tiny", revision="1.0.0").sha
    assert commit is not None
    wanted = commit if revision == "commit" else revision
    found = Path(hub.api.snapshot_download("acme/tiny", revision=wanted, cache_dir=tmp_path / "cache"))
    assert files_in(found) == files_in(folder)
    assert found.name == hub.api.model_info("acme/tiny", revision=wanted).sha


@EVERYWHERE
def test_a_snapshot_and_a_range(hub: Hub, folder: Path, tmp_path: Path) -> None:
    name = hub.repository("tiny")
    found = Path(hub.api.snapshot_download(name, revision="1.0.0", cache_dir=tmp_path / "cache"))
    assert files_in(found) == files_in(folder)
    with HfFileSystem(endpoint=hub.endpoint, token=hub.key).open(f"{name}/model.safetensors") as file:
        file.seek(1000)
        assert file.read(64) == (folder / "model.safetensors").read_bytes()[1000:1064]


def test_a_signature_comes_with_the_files(hub: Hub, folder: Path, tmp_path: Path) -> None:
    """One that was made after the push, too; the version's commit stays as it was."""
    found = tmp_path / "signed"
    public = tmp_path / "release.pub"
    public.write_text(public_pem(private_key()))
    with hub.server.client(hub.owner) as client:
        push_model(client, folder, name="signed")
        commit = hub.api.model_info("acme/signed").sha
        digests = {file.path: file.sha256 for file in client.models.manifest("acme/signed", "1.0.0").files}
        client.models.sign("acme/signed", "1.0.0", signing.sign(private_key(), digests, "signed"))
    hub.api.snapshot_download("acme/signed", local_dir=found)
    assert hub.api.model_info("acme/signed").sha == commit
    words = [
        "verify",
        "key",
        "--public_key",
        public,
        "--signature",
        found / "model.sig",
        "--ignore-paths",
        found / ".cache",
    ]
    done = CliRunner().invoke(model_signing, [*map(str, words), str(found)])
    assert (done.exit_code, "succeeded" in done.output) == (0, True), done.output


def test_metadata_names_contents_as_clients_compare_them(hub: Hub) -> None:
    token, api = hub.key, hub.api
    info = api.model_info("acme/tiny", files_metadata=True, revision="1.0.0")
    large = next(each for each in info.siblings or () if each.rfilename == "model.safetensors")
    small = next(each for each in info.siblings or () if each.rfilename == "config.json")
    assert large.lfs is not None
    assert small.lfs is None
    for each, etag in ((large, large.lfs.sha256), (small, small.blob_id)):
        url = hf_hub_url("acme/tiny", each.rfilename, endpoint=hub.endpoint, revision="1.0.0")
        found = get_hf_file_metadata(url, token=token)
        assert (found.etag, found.commit_hash, found.size) == (etag, info.sha, each.size)


def test_lists_references_and_who_one_is(hub: Hub) -> None:
    api = hub.api
    refs = api.list_repo_refs("acme/tiny")
    assert [each.name for each in refs.branches] == ["main"]
    assert {each.name for each in refs.tags} == {"1.0.0", "1.1.0-rc.1+build.5"}
    assert api.whoami()["name"] == "acme"
    assert {each.id for each in api.list_models(author="acme")} >= {"acme/tiny", "acme/gguf"}
    paths = api.get_paths_info("acme/tiny", ["config.json", FOLDER, "absent"])
    assert {each.path for each in paths} == {"config.json", FOLDER}
    names = {each.path for each in api.list_repo_tree("acme/tiny", recursive=True)}
    assert {FOLDER, f"{FOLDER}/notes 1.txt"} <= names
    assert [each.path for each in api.list_repo_tree("acme/tiny", FOLDER)] == [f"{FOLDER}/notes 1.txt"]
    api.auth_check("acme/tiny")


def test_pages_of_a_tree_are_under_the_prefix(hub: Hub, folder: Path) -> None:
    url = f"{hub.endpoint}/api/models/acme/tiny/tree/1.1.0-rc.1%2Bbuild.5?recursive=true&limit=3"
    found, pages = set[str](), 0
    with httpx.Client(headers={"Authorization": f"Bearer {hub.key}"}) as client:
        while url:
            answer = client.get(url)
            found |= {each["path"] for each in answer.json()}
            pages, url = pages + 1, answer.links.get("next", {}).get("url", "")
            assert not url or url.startswith(f"{hub.endpoint}/api/models/")
    assert pages > 1
    assert files_in(folder).keys() < found


@pytest.mark.parametrize("hub", ["bucket"], indirect=True)
def test_transformers_load_a_model_that_says_what_it_says_and_push_it(hub: Hub, folder: Path) -> None:
    """And the file system of `huggingface_hub` reads a range in the middle."""
    pytest.importorskip("torch")
    name, pushed = hub.repository("tiny"), hub.repository("pushed")
    code = (
        "import transformers as t; from huggingface_hub import HfFileSystem\n"
        f"tokens = t.AutoTokenizer.from_pretrained({name!r})\n"
        f"model = t.AutoModelForCausalLM.from_pretrained({name!r})\n"
        "given = tokens('Hello', return_tensors='pt')\n"
        "print(tokens.decode(model.generate(**given, max_new_tokens=20)[0]))\n"
        f"with HfFileSystem().open('{name}/model.safetensors') as file: file.seek(1000); print(file.read(64).hex())\n"
        f"model.push_to_hub({pushed!r}, private=True)\n"
    )
    done = hub.python(code)
    assert done.returncode == 0, done.stderr
    assert (folder / "model.safetensors").read_bytes()[1000:1064].hex() in done.stdout
    assert "tiny test model" in done.stdout
    assert "ready" in hub.versions("pushed").values()


@pytest.mark.parametrize("hub", ["bucket", "relayed", "in_place", "held"], indirect=True)
def test_llama_cpp_loads_by_its_own_downloader(hub: Hub) -> None:
    """It takes no token but of the form `hf_…`."""
    code = (
        f"import os, xllamacpp as x; p = x.CommonParams(); p.model.hf_repo = {hub.repository('gguf') + ':Q4_K_M'!r}\n"
        "p.model.path = 'tiny.gguf'\n"
        "p.hf_token = os.environ['HF_TOKEN']; p.n_ctx = 64; p.n_parallel = 1; p.warmup = False\n"
        # A server that is destroyed as soon as it is made may wait for ever, so this one is kept until the end.
        "server = x.Server(p); print('LOADED', flush=True); os._exit(0)\n"
    )
    done = hub.python(code, token_of(hub.key))
    assert "LOADED" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize("hub", ["bucket"], indirect=True)
@pytest.mark.parametrize("reference", ["/tiny-Q4_K_M.gguf", ":Q4_K_M"])
def test_ramalama_pulls(hub: Hub, folder: Path, reference: str) -> None:
    program = str(Path(sys.executable).with_name("ramalama"))
    store = hub.home / "store"
    done = hub.run(program, "--store", str(store), "pull", f"hf://{hub.repository('gguf')}{reference}")
    assert done.returncode == 0, done.stderr
    stored = [path for path in store.rglob("*") if path.is_file() and path.stat().st_size > 100_000]
    assert {path.read_bytes() for path in stored} == {(folder.parent / "gguf/tiny-Q4_K_M.gguf").read_bytes()}


@EVERYWHERE
def test_a_client_that_carries_its_key_to_the_bucket_is_sent_the_bytes(hub: Hub, folder: Path) -> None:
    wanted = (folder / "model.safetensors").read_bytes()
    url = f"{hub.endpoint}/{hub.repository('tiny')}/resolve/main/model.safetensors"
    headers = {"Authorization": f"Bearer {hub.key}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        assert answer.read() == wanted
    ranged = urllib.request.Request(url, headers=headers | {"Range": "bytes=1000-"})
    with urllib.request.urlopen(ranged) as answer:
        assert (answer.status, answer.read()) == (206, wanted[1000:])
    beyond = urllib.request.Request(url, headers=headers | {"Range": "bytes=99999999-"})
    with pytest.raises(urllib.error.HTTPError, match="416"):
        urllib.request.urlopen(beyond)
    operator = {"Authorization": f"Bearer {hub.server.platform_key}"}
    metrics = httpx.get(f"{hub.server.url}/metrics", headers=operator).text
    assert "modelshare_hub_streamed_bytes_total" in metrics


@EVERYWHERE
def test_the_key_is_harmless_where_a_client_is_sent(hub: Hub, folder: Path) -> None:
    """To the platform itself, so that clients send their key along, unless the bucket has signed URLs."""
    wanted = (folder / "model.safetensors").read_bytes()
    key = {"Authorization": f"Bearer {hub.key}"}
    url = f"{hub.endpoint}/{hub.repository('tiny')}/resolve/main/model.safetensors"
    sent = httpx.get(url, headers=key)
    assert (sent.status_code, sent.headers["x-linked-size"]) == (302, str(len(wanted)))
    assert sent.headers["vary"] == "Authorization"
    is_own = sent.headers["location"].startswith(hub.server.url)
    assert is_own == (hub.kind not in {"bucket", "in_place"})
    assert httpx.get(sent.headers["location"], headers=key if is_own else {}).content == wanted
    head = httpx.head(url, headers=key)
    assert (head.status_code, head.headers["content-length"]) == (200, sent.headers["x-linked-size"])


def test_errors_are_those_that_clients_know(hub: Hub, tmp_path: Path) -> None:
    api = hub.api
    with pytest.raises(RevisionNotFoundError):
        api.model_info("acme/tiny", revision="9.9.9")
    with pytest.raises(RemoteEntryNotFoundError) as absent:
        api.hf_hub_download("acme/tiny", "absent.json", cache_dir=tmp_path)
    assert absent.value.response.headers["x-repo-commit"] == api.model_info("acme/tiny").sha
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/absent")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        hub.api_of("hf_" + "a" * 40).whoami()
    with pytest.raises(RepositoryNotFoundError, match="Invalid credentials in Authorization header") as refused:
        hub.api_of("hf_" + "a" * 40).model_info("acme/tiny")
    assert refused.value.response.status_code == 401
    for path in ("api/models/acme/tiny/commits/main", "api/datasets/acme/tiny", "acme/tiny", "api/models/acme/tiny/x"):
        answer = httpx.get(f"{hub.endpoint}/{path}", headers={"Authorization": f"Bearer {hub.key}"})
        assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RepoNotFound")


def test_nobody_else_reads_anything(hub: Hub, tmp_path: Path) -> None:
    """Not even of a model that everybody sees in the catalog; and absent looks the same."""
    other = hub.server.project("other")
    with hub.server.client(hub.owner) as client:
        client.models.share("acme/tiny")
        inference = httpx.post(
            f"{hub.server.url}/v1/keys",
            json={"name": "calls", "scopes": ["inference"]},
            headers={"Authorization": f"Bearer {hub.key}"},
        ).json()["key"]
    for token in (other.api_key, inference, hub.server.platform_key):
        for name in ("acme/tiny", "acme/absent"):
            with pytest.raises(RepositoryNotFoundError):
                snapshot_download(name, endpoint=hub.endpoint, token=token, cache_dir=tmp_path)
            with pytest.raises(RepositoryNotFoundError):
                hub.api_of(token).list_repo_tree(name).__iter__().__next__()
        assert list(hub.api_of(token).list_models()) == []
    for name in ("acme/tiny", "acme/absent"):
        answer = httpx.get(f"{hub.endpoint}/api/models/{name}")
        assert (answer.status_code, answer.headers["x-error-code"]) == (401, "RepoNotFound")


def test_an_endpoints_token_reads_its_version_and_ends_with_it(hub: Hub, folder: Path, tmp_path: Path) -> None:
    deployer = hub.server.project("borealis")
    with hub.server.client(hub.owner) as client:
        client.models.share("acme/tiny")
    with hub.server.client(deployer) as client:
        client.endpoints.create(EndpointCreate(slug="chat", model="acme/tiny", tier="self_hosted", version="1.0.0"))
        token = client.endpoints.make_hf_token("chat").token
        api = hub.api_of(token)
        assert files_in(Path(api.snapshot_download("acme/tiny", cache_dir=tmp_path / "1"))) == files_in(folder)
        assert api.model_info("acme/tiny").sha == hub.api.model_info("acme/tiny", revision="1.0.0").sha
        with pytest.raises(RevisionNotFoundError):
            api.model_info("acme/tiny", revision="1.1.0-rc.1+build.5")
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("acme/gguf")
        with pytest.raises(HfHubHTTPError, match="only reads"):
            api.upload_file(path_or_fileobj=b"x", path_in_repo="x.json", repo_id="acme/tiny")
        client.endpoints.update("chat", EndpointPatch(is_active=False))
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("acme/tiny")
        client.endpoints.update("chat", EndpointPatch(is_active=True))
        newer = client.endpoints.make_hf_token("chat").token
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("acme/tiny", "config.json", endpoint=hub.endpoint, token=token, cache_dir=tmp_path / "2")
        assert hub.api_of(newer).model_info("acme/tiny").sha
        client.endpoints.delete("chat")
        with pytest.raises(RepositoryNotFoundError):
            hub.api_of(newer).model_info("acme/tiny")
    said = httpx.get(
        f"{hub.server.url}/v1/audit?action=weights.pull", headers={"Authorization": f"Bearer {hub.key}"}
    ).json()["data"]
    assert any(each["actor"] == "project:borealis" and each["details"]["form"] == "hugging_face" for each in said)
