import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st
from modelpack_client.constants import MODEL_LAYER_MEDIA_TYPES
from modelpack_client.schema import CONFIG_SCHEMA

from modelshare.server.hub.oci.artifact import MAX_MANIFEST, Artifact, Source, render, too_large
from modelshare.server.registry.manifest import ManifestFile

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
SOURCE = Source(
    name="Tiny",
    version="1.0.0+build",
    created=1_767_225_600,
    license="apache-2.0",
    family="llama",
    format="safetensors",
    architecture="LlamaForCausalLM",
    parameters=6_738_415_616,
    quantization="BF16",
    files=[ManifestFile("model.safetensors", 7, A), ManifestFile("config.json", 3, B), ManifestFile("empty", 0, C)],
    weights=frozenset({"model.safetensors"}),
)
DIGEST = "f2b7d0e38643d2d42ee248ab38e0faaffd321eabcfe2db403a22cae07028f11b"


def manifest_of(artifact: Artifact) -> dict[str, Any]:
    return dict(json.loads(artifact.manifest))


def test_an_artifact_byte_by_byte() -> None:
    """Whoever pins a digest relies on it: a change of these bytes must not reach versions that are rendered already."""
    artifact = render(SOURCE)
    assert artifact.config.decode() == (
        '{"descriptor":{"createdAt":"2026-01-01T00:00:00Z","name":"Tiny","version":"1.0.0+build","family":"llama",'
        '"licenses":["apache-2.0"],"title":"Tiny"},'
        '"config":{"architecture":"LlamaForCausalLM","format":"safetensors","paramSize":"6.7B","precision":"bf16"},'
        f'"modelfs":{{"type":"layers","diffIds":["sha256:{B}","sha256:{A}"]}}}}'
    )
    manifest = manifest_of(artifact)
    assert manifest["config"] == {
        "mediaType": "application/vnd.cncf.model.config.v1+json",
        "digest": f"sha256:{hashlib.sha256(artifact.config).hexdigest()}",
        "size": len(artifact.config),
    }
    assert manifest["layers"][1] == {
        "mediaType": "application/vnd.cncf.model.weight.v1.raw",
        "digest": f"sha256:{A}",
        "size": 7,
        "annotations": {
            "org.cncf.model.filepath": "model.safetensors",
            "org.opencontainers.image.title": "model.safetensors",
            "org.cncf.model.file.metadata+json": '{"name":"model.safetensors","mode":420,"uid":0,"gid":0,"size":7,'
            '"mtime":"2026-01-01T00:00:00Z","typeflag":48}',
        },
    }
    assert hashlib.sha256(artifact.manifest).hexdigest() == DIGEST


paths = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
files = st.lists(
    st.builds(
        ManifestFile, path=paths, size=st.integers(0, 2**50), sha256=st.binary(min_size=32, max_size=32).map(bytes.hex)
    ),
    unique_by=lambda file: file.path,
    max_size=8,
).filter(lambda files: any(file.size for file in files))
sources = st.builds(
    Source,
    name=st.text(min_size=1, max_size=9),
    version=st.just("1.0.0"),
    created=st.integers(0, 2**32),
    license=st.none() | st.text(max_size=9),
    family=st.none() | st.text(max_size=9),
    format=st.sampled_from(["gguf", "safetensors", "pickle"]),
    architecture=st.none() | st.text(max_size=9),
    parameters=st.none() | st.integers(0, 2**53),
    quantization=st.none() | st.sampled_from(["Q4_K_M", "F16", "awq-4bit"]),
    files=files,
    weights=st.just(frozenset[str]()),
)


@given(sources)
def test_every_artifact_is_one_by_the_specification(source: Source) -> None:
    artifact = render(source)
    config, manifest = json.loads(artifact.config), manifest_of(artifact)
    jsonschema.validate(config, CONFIG_SCHEMA)
    assert re.fullmatch(r"[0-9]+(\.[0-9])?[KMBT]", config["config"].get("paramSize", "1K"))
    layers = manifest["layers"]
    assert {layer["mediaType"] for layer in layers} <= MODEL_LAYER_MEDIA_TYPES
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in layers]
    named = [(layer["annotations"]["org.cncf.model.filepath"], layer["size"], layer["digest"]) for layer in layers]
    assert named == sorted((file.path, file.size, f"sha256:{file.sha256}") for file in source.files if file.size)


@given(sources, st.randoms())
def test_the_order_of_files_does_not_matter(source: Source, random: Any) -> None:
    shuffled = list(source.files)
    random.shuffle(shuffled)
    assert render(replace(source, files=shuffled)) == render(source)


def test_what_files_are() -> None:
    kinds = {
        "weight": [
            "a/model-00001-of-00002.safetensors",
            "X.GGUF",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "model.bin",
        ],
        "weight.config": [
            *(
                "config.json",
                "tokenizer.model",
                "vocab.txt",
                "merges.txt",
                "chat_template.jinja",
                "tokenizer_config.json",
            ),
            *("model.safetensors.index.json", "spiece.vocab", "readme.json.jinja"),
        ],
        "doc": ["README.md", "LICENSE", "docs/LICENSE.txt", "NOTICE", "pictures/a.png", "USE_POLICY.md"],
        "code": ["modeling_tiny.py", "sub/x.PY"],
        "dataset": ["data/train.parquet"],
    }
    named = {path: kind for kind, of_kind in kinds.items() for path in of_kind}
    source = replace(SOURCE, files=[ManifestFile(path, 1, A) for path in named], weights=frozenset({"model.bin"}))
    layers = manifest_of(render(source))["layers"]
    found = {layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"] for layer in layers}
    assert found == {path: f"application/vnd.cncf.model.{kind}.v1.raw" for path, kind in named.items()}


def test_numbers_of_parameters() -> None:
    wanted = {
        0: None,
        949: None,
        1_000: "1K",
        999_960: "1M",
        1_100_048_384: "1.1B",
        70_553_706_496: "70.6B",
        10**12: "1T",
    }
    for parameters, text in wanted.items():
        config = json.loads(render(replace(SOURCE, parameters=parameters)).config)["config"]
        assert config.get("paramSize") == text


def test_a_version_of_too_many_files_says_so() -> None:
    def made(files: int) -> Artifact:
        return render(replace(SOURCE, files=[ManifestFile(f"{n:060}.json", 1, A) for n in range(files)]))

    assert too_large(made(5_000), 5_000) is None
    artifact = made(9_000)
    assert len(artifact.manifest) > MAX_MANIFEST
    assert (too_large(artifact, 9_000) or "").startswith("This version has no OCI form: it has 9,000 files,")
