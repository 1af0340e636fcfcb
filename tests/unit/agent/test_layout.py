"""The folder that engines are given holds the weights that were decided, under the names they look for."""

import json
from pathlib import Path

import pytest

from modelshare.agent.errors import DeploymentError
from modelshare.agent.layout import lay_out
from modelshare.wire.link import DeploymentFile, Desired, DesiredDeployment, decode_from_server, encode
from unit.registry.samples import safetensors_file


def wanted(*paths: str, root: str = "", weights: tuple[str, ...] = ()) -> DesiredDeployment:
    return DesiredDeployment(
        deployment_id="d",
        manifest_digest="sha256:x",
        served_name="acme/tiny",
        version="1.0.0",
        format="gguf",
        architecture=None,
        task="chat",
        context_length=None,
        parameters=None,
        files=[DeploymentFile(path, 1, f"{n:064x}") for n, path in enumerate(paths)],
        max_concurrent=1,
        root=root,
        weights=list(weights),
    )


@pytest.mark.parametrize(
    ("one", "places", "weights"),
    [
        pytest.param(
            wanted("Q4/m.gguf", "Q4/README.md", "Q8/m.gguf", "top.txt", root="Q4", weights=("Q4/m.gguf",)),
            {"m.gguf", "README.md"},
            ("m.gguf",),
            id="one of several folders",
        ),
        pytest.param(
            wanted("a.gguf", "b.gguf", "mmproj.gguf", weights=("b.gguf",)), {"b.gguf"}, ("b.gguf",), id="one of several"
        ),
        pytest.param(
            wanted("m/config.json", "m/model.fp16.safetensors", root="m", weights=("m/model.fp16.safetensors",)),
            {"config.json", "model.safetensors"},
            ("model.safetensors",),
            id="a variant under the plain name",
        ),
        pytest.param(
            wanted(
                "config.json",
                "model.safetensors",
                "x-1.safetensors",
                "x-2.safetensors",
                "x.safetensors.index.json",
                weights=("x-1.safetensors", "x-2.safetensors"),
            ),
            {"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"},
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            id="shards under the plain names, without the index that came",
        ),
        pytest.param(
            wanted(
                "Q8/A-00001-of-00002.GGUF",
                "Q8/A-00002-of-00002.gguf",
                root="Q8",
                weights=("Q8/A-00001-of-00002.GGUF", "Q8/A-00002-of-00002.gguf"),
            ),
            {"model-00001-of-00002.gguf", "model-00002-of-00002.gguf"},
            ("model-00001-of-00002.gguf", "model-00002-of-00002.gguf"),
            id="parts as llama.cpp counts them",
        ),
        pytest.param(
            wanted(
                "modules.json",
                "0_Transformer/model.safetensors",
                "2_Dense/model.safetensors",
                weights=("0_Transformer/model.safetensors", "2_Dense/model.safetensors"),
            ),
            {"modules.json", "0_Transformer/model.safetensors", "2_Dense/model.safetensors"},
            ("0_Transformer/model.safetensors", "2_Dense/model.safetensors"),
            id="parts of a sentence-transformers model",
        ),
        pytest.param(
            wanted("b.gguf", "a/x-00002-of-00002.gguf", "a/x-00001-of-00002.gguf", "a/mmproj.gguf"),
            {"b.gguf", "a/x-00002-of-00002.gguf", "a/x-00001-of-00002.gguf", "a/mmproj.gguf"},
            ("a/x-00001-of-00002.gguf", "a/x-00002-of-00002.gguf"),
            id="of an older server all files as they are",
        ),
    ],
)
def test_what_an_engine_finds(one: DesiredDeployment, places: set[str], weights: tuple[str, ...]) -> None:
    layout = lay_out(one)
    assert (set(layout.files), layout.weights) == (places, weights)


@pytest.mark.parametrize("index", [(), ("m/model.safetensors.index.json",)])
def test_shards_get_an_index_that_every_reader_takes(index: tuple[str, ...], tmp_path: Path) -> None:
    """Transformers ends at an index without `metadata`."""
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    shards = tuple(f"m/{name}" for name in names)
    layout = lay_out(wanted(*shards, *index, root="m", weights=shards))
    for name, tensor in zip(names, "ab", strict=True):
        (tmp_path / name).write_bytes(safetensors_file({tensor: ("F32", [])}, metadata={}))
    layout.finish(tmp_path)
    written = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert written == {"metadata": {"total_size": 2}, "weight_map": {"a": names[0], "b": names[1]}}


@pytest.mark.parametrize(
    ("config", "laid_out"),
    [
        ('{"transformers_weights": "x.safetensors", "a": NaN, "b": "\\ud800"}', '{"a": NaN, "b": "\\ud800"}'),
        ('{ "a": 1 }', '{ "a": 1 }'),
        ('["transformers_weights"]', '["transformers_weights"]'),
        ("{", "{"),
    ],
)
def test_no_config_names_other_weights_to_an_engine(config: str, laid_out: str, tmp_path: Path) -> None:
    """What is kept of the file, to which the folder has a link, stays as it came."""
    (tmp_path / "kept").write_text(config)
    (tmp_path / "config.json").hardlink_to(tmp_path / "kept")
    layout = lay_out(wanted("config.json", "x.safetensors", weights=("x.safetensors",)))
    layout.finish(tmp_path)
    assert ((tmp_path / "config.json").read_text(), (tmp_path / "kept").read_text()) == (laid_out, config)


def test_weights_that_do_not_come_are_told() -> None:
    with pytest.raises(DeploymentError, match=r"names 'b\.gguf' as weights"):
        lay_out(wanted("a.gguf", weights=("b.gguf",)))


def test_an_agent_understands_servers_from_before_and_after_it() -> None:
    """Fields go by their names: an agent leaves out those it does not know, and a server those it does not have."""
    new = wanted("a.gguf", root="x", weights=("a.gguf",))
    data = encode(Desired(0, [new]))
    assert decode_from_server(data) == Desired(0, [new])
    old = data.replace(b"weights", b"unknown").replace(b"root", b"what")
    decoded = decode_from_server(old)
    assert isinstance(decoded, Desired)
    assert (decoded.deployments[0].root, decoded.deployments[0].weights) == ("", [])
