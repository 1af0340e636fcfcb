import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.registry.manifest import (
    InvalidManifestError,
    Manifest,
    ManifestFile,
    canonical_bytes,
    canonical_json,
    digest,
    parse,
)
from modelshare.server.registry.refused import ModelRejectedError

SHA256 = "0123456789abcdef" * 4

integers = st.integers(-(2**53) + 1, 2**53 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | integers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
files = st.lists(
    st.builds(
        ManifestFile,
        path=st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{4,6})?", fullmatch=True),
        size=st.integers(0, 2**40),
        sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    ),
    max_size=6,
    unique_by=lambda file: file.path.split("/")[0],
).filter(lambda files: not any(file.path.startswith(("con", "prn", "aux", "nul", "com", "lpt")) for file in files))


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "tiny",
        "version": "1.0.0",
        "files": [ManifestFile("model.gguf", 7, SHA256), ManifestFile("README.md", 3, SHA256)],
        "facts": {"format": "gguf", "parameters": 12},
        "license": "apache-2.0",
        "created": 1_700_000_000,
    }
    return Manifest.of(**fields | changes)


def test_canonical_bytes_are_sorted_compact_and_whole() -> None:
    assert canonical_bytes(manifest()) == (
        b'{"created":1700000000,"facts":{"format":"gguf","parameters":12},"files":['
        b'{"path":"README.md","sha256":"' + SHA256.encode() + b'","size":3},'
        b'{"path":"model.gguf","sha256":"' + SHA256.encode() + b'","size":7}],'
        b'"license":"apache-2.0","name":"tiny","schema_version":1,"total_bytes":10,"version":"1.0.0"}'
    )


def test_digest_names_its_algorithm() -> None:
    assert digest(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(files, st.dictionaries(texts, json_values, max_size=4), texts, st.none() | texts, st.randoms())
def test_round_trip_whatever_the_order(
    files: list[ManifestFile], facts: dict[str, Any], name: str, licence: str | None, random: Any
) -> None:
    original = manifest(name=name, files=files, facts=facts, license=licence)
    random.shuffle(files)
    shuffled = manifest(name=name, files=files, facts=dict(reversed(facts.items())), license=licence)
    data = canonical_bytes(original)
    assert canonical_bytes(shuffled) == data
    assert parse(data) == original
    assert json.loads(data)["total_bytes"] == sum(file.size for file in files)


def test_keys_sort_by_utf16_code_units_and_text_stays_utf8() -> None:
    # The example of RFC 8785, section 3.2.3
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    ordered = json.loads(canonical_json(dict.fromkeys(keys)), object_pairs_hook=lambda pairs: [key for key, _ in pairs])
    assert ordered == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert canonical_json('€\u000f\n"\\\u007f/') == '"€\\u000f\\n\\"\\\\\u007f/"'.encode()


@pytest.mark.parametrize("value", [1.0, float("nan"), 2**53, -(2**53), b"x", {1: 2}, "\ud800", {"\ud800": 1}, {1, 2}])
def test_what_canonical_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InvalidManifestError):
        canonical_json({"facts": [value]})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        canonical_bytes(manifest()) + b"\n",
        canonical_bytes(manifest()).replace(b":10,", b":11,"),
        canonical_bytes(manifest()).replace(b'"created"', b' "created"'),
        canonical_bytes(manifest()).replace(b'{"created"', b'{"bucket":"b","created"'),
        canonical_bytes(manifest()).replace(b'"schema_version":1', b'"schema_version":2'),
        canonical_bytes(manifest()).replace(b"README.md", b"../ADME.md"),
        canonical_bytes(manifest()).replace(b"README.md", b"zEADME.md"),
        canonical_bytes(manifest()).replace(b'"size":3', b'"size":-3'),
        canonical_bytes(manifest()).replace(b'"name":"tiny"', b'"name":1'),
        canonical_bytes(manifest()).replace(SHA256.encode(), SHA256.upper().encode()),
        b"[" * 100_000,
    ],
)
def test_anything_but_canonical_bytes_is_no_manifest(data: bytes) -> None:
    with pytest.raises(InvalidManifestError):
        parse(data)


def test_path_tricks_cannot_enter_a_manifest() -> None:
    with pytest.raises(ModelRejectedError, match="leave the model's folder"):
        manifest(files=[ManifestFile("../evil", 1, SHA256)])
