"""The folder that engines are given holds the weights that were decided, under the names they look for."""

import json
import struct
from pathlib import Path

import pytest

from modelshare.agent.errors import DeploymentError
from modelshare.agent.layout import lay_out
from modelshare.wire.link import DeploymentFile, Desired, Wanted, decode_from_server, encode


def wanted(*paths: str, root: str = "", weights: tuple[str, ...] = ()) -> Wanted:
    return Wanted(
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
            {"config.json", "x-1.safetensors", "x-2.safetensors", "model.safetensors.index.json"},
            ("x-1.safetensors", "x-2.safetensors"),
            id="shards with their index under the plain name",
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
def test_what_an_engine_finds(one: Wanted, places: set[str], weights: tuple[str, ...]) -> None:
    layout = lay_out(one)
    assert (set(layout.files), layout.weights, layout.index) == (places, weights, None)


def test_shards_without_an_index_get_one(tmp_path: Path) -> None:
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    layout = lay_out(
        wanted("m/config.json", *(f"m/{name}" for name in names), root="m", weights=tuple(f"m/{n}" for n in names))
    )
    for name, tensor in zip(names, "ab", strict=True):
        header = json.dumps(
            {"__metadata__": {}, tensor: {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}
        ).encode()
        (tmp_path / name).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    layout.write_index(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {"a": names[0], "b": names[1]}


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
