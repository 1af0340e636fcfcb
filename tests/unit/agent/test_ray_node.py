"""Weights on a node of a Ray cluster, for an engine that somebody else starts there."""

import hashlib
from pathlib import Path

import pytest

from modelshare.agent.cache import Cache, CachedFiles
from modelshare.agent.layout import lay_out
from modelshare.agent.ray_serve.messages import Deploy
from modelshare.agent.ray_serve.node import pull_model
from modelshare.agent.ray_serve.settings import RaySettings
from modelshare.wire.link import DeploymentFile, DesiredDeployment
from unit.registry.samples import safetensors_file

pytestmark = pytest.mark.anyio
NAMES = ("a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def plan(tmp_path: Path) -> Deploy:
    """Of a model of two files that the node has already."""
    contents = {path: safetensors_file({path: ("U8", [1])}) for path in NAMES}
    files = [DeploymentFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in contents.items()]
    wanted = DesiredDeployment(
        deployment_id="dep_1",
        manifest_digest="sha256:" + "a" * 64,
        served_name="acme/tiny",
        version="1.0.0",
        format="safetensors",
        architecture="LlamaForCausalLM",
        task="chat",
        context_length=2048,
        parameters=None,
        files=files,
        max_concurrent=1,
        weights=list(NAMES),
    )
    cache = Cache(tmp_path / "dep_1")
    for file in files:
        cache.blob(file.sha256).write_bytes(contents[file.path])
    return Deploy(wanted, RaySettings(cache=str(tmp_path)), 1, "digest")


async def test_a_folder_that_was_left_unfinished_is_made_anew(plan: Deploy, tmp_path: Path) -> None:
    wanted = plan.wanted
    holding = CachedFiles(wanted.deployment_id, wanted.manifest_digest, wanted.files)
    left = Cache(tmp_path / "dep_1").view(holding, lay_out(wanted).files)  # and then its process ended
    assert not (left / INDEX).exists()
    assert (await pull_model(plan) / INDEX).exists()


async def test_a_folder_that_other_replicas_read_stays_as_it_is(plan: Deploy) -> None:
    folder = await pull_model(plan)
    before = changed(folder)
    assert await pull_model(plan) == folder
    assert changed(folder) == before


def changed(folder: Path) -> dict[str, int]:
    """When each file was changed."""
    return {path.name: path.stat().st_ctime_ns for path in [folder, *folder.iterdir()]}
