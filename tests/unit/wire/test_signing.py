"""Signatures are made and checked from digests; what is not exactly signed is refused with a reason."""

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from modelshare.wire import signing
from modelshare.wire.signing import SignatureError, UnknownSignerError, UnusableKeyError
from signing_keys import CURVES, private_key, private_pem, public_pem

FILES = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a/b.json", "a.b", "model.gguf", "README.md")}
KEY = private_key()
BUNDLE = signing.sign(KEY, FILES, "tiny")
paths = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda path: path == path.strip("/") and path in signing.covered({path: ""})
)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
file_lists = st.dictionaries(paths, digests, min_size=1, max_size=8)


def signed_anew(change: dict[str, Any], **statement: Any) -> bytes:
    """A bundle of another shape, or around another statement, that the key has really signed."""
    payload = json.dumps(signing.statement(FILES, "tiny") | statement).encode()
    signature = KEY.sign(signing._pae(payload), signing._algorithm(KEY.curve))
    bundle = json.loads(BUNDLE)
    bundle["dsseEnvelope"] |= {
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }
    return json.dumps(bundle | change).encode()


def predicate(serialization: dict[str, Any] | None = None, resources: Any = None) -> dict[str, Any]:
    made = signing.statement(FILES, "tiny")["predicate"]
    return {
        "serialization": made["serialization"] | (serialization or {}),
        "resources": made["resources"] if resources is None else resources,
    }


@pytest.mark.parametrize("curve", CURVES)
def test_a_signature_of_every_curve_names_its_key(curve: str) -> None:
    key = private_key(curve)
    bundle = signing.sign(key, FILES, "tiny")
    assert signing.verify(bundle, [KEY.public_key(), key.public_key()], FILES) == signing.key_id(key.public_key())


@given(file_lists)
def test_whatever_was_signed_verifies_and_nothing_else(files: dict[str, str]) -> None:
    bundle = signing.sign(KEY, files, "tiny")
    key = KEY.public_key()
    signing.verify(bundle, [key], files)
    path = min(files)
    fewer = {each: digest for each, digest in files.items() if each != path}
    changed = files | {path: hashlib.sha256(files[path].encode()).hexdigest()}
    for others in (fewer, changed, files | {f"{path}x/new": "0" * 64}):
        with pytest.raises(SignatureError):
            signing.verify(bundle, [key], others)
    signing.verify(bundle, [key], fewer, are_all=False)
    with pytest.raises(SignatureError, match="changed since it was signed"):
        signing.verify(bundle, [key], {path: changed[path]}, are_all=False)


@given(st.binary(max_size=300))
def test_rubbish_is_no_signature(data: bytes) -> None:
    with pytest.raises(SignatureError):
        signing.verify(data, [KEY.public_key()], FILES)


@given(st.integers(0, len(BUNDLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_says_nothing_else(place: int, flip: int) -> None:
    data = bytearray(BUNDLE)
    data[place] ^= flip
    try:
        signing.verify(bytes(data), [KEY.public_key()], FILES)
    except SignatureError:
        return
    changed, before = signing.read_bundle(bytes(data)), signing.read_bundle(BUNDLE)
    assert (changed.key_id, changed.payload) == (before.key_id, before.payload)


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        pytest.param(b"[" * 100_000, "form", id="deep"),
        pytest.param(b" " * (signing.MAX_BUNDLE + 1), "at most 8 MiB", id="long"),
        pytest.param(signed_anew({"mediaType": "application/json"}), "Sigstore bundle", id="media type"),
        pytest.param(signed_anew({"verificationMaterial": {"certificate": {}}}), "certificate", id="certificate"),
        pytest.param(signed_anew({"dsseEnvelope": None}), "exactly one signature", id="no envelope"),
        pytest.param(signed_anew({}, _type="https://in-toto.io/Statement/v0.1"), "statement", id="statement type"),
        pytest.param(
            signed_anew({}, predicateType="https://model_signing/Digests/v0.1"), "another version", id="predicate"
        ),
        pytest.param(signed_anew({}, predicate=predicate({"method": "shards"})), "whole files", id="shards"),
        pytest.param(signed_anew({}, predicate=predicate({"hash_type": "blake2b"})), "SHA-256", id="another hash"),
        pytest.param(
            signed_anew({}, predicate=predicate(resources=[{"name": "x", "algorithm": "sha256", "digest": "xyz"}])),
            "not a SHA-256",
            id="not hexadecimal",
        ),
        pytest.param(signed_anew({}, predicate=predicate(resources=[])), "contradicts itself", id="root"),
        pytest.param(
            signed_anew({}, predicate=predicate(resources=[{"name": "x"}] * 10_001)), "form", id="too many files"
        ),
        pytest.param(signed_anew({}, subject=[]), "form", id="no subject"),
    ],
)
def test_what_is_not_understood_is_refused(bundle: bytes, reason: str) -> None:
    with pytest.raises(SignatureError, match=reason):
        signing.verify(bundle, [KEY.public_key()], FILES)


def test_a_file_that_is_listed_twice_is_refused() -> None:
    resources = signing.statement(FILES, "tiny")["predicate"]["resources"]
    twice = [*resources, resources[0]]
    root = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in twice)).hexdigest()
    subject = [{"name": "tiny", "digest": {"sha256": root}}]
    with pytest.raises(SignatureError, match="contradicts itself"):
        signing.verify(
            signed_anew({}, predicate=predicate(resources=twice), subject=subject), [KEY.public_key()], FILES
        )


def test_the_subject_name_and_unknown_fields_bind_nothing() -> None:
    made = signing.statement(FILES, "another name")
    bundle = signed_anew({"new": [1]}, subject=made["subject"], more={"x": 1})
    assert signing.verify(bundle, [KEY.public_key()], FILES)


def test_a_key_that_was_not_asked_for_counts_for_nothing() -> None:
    other = private_key("P-256", 1)
    with pytest.raises(UnknownSignerError):
        signing.verify(BUNDLE, [other.public_key()], FILES)
    claimed = json.loads(BUNDLE)
    claimed["verificationMaterial"]["publicKey"]["hint"] = signing.key_id(other.public_key())
    with pytest.raises(SignatureError, match="did not sign"):
        signing.verify(json.dumps(claimed).encode(), [other.public_key()], FILES)


def test_reasons_name_the_first_files() -> None:
    more = FILES | {f"extra{n}": "0" * 64 for n in range(5)}
    with pytest.raises(SignatureError, match="extra0, extra1, extra2 and 2 more files are not signed"):
        signing.verify(BUNDLE, [KEY.public_key()], more)


def test_the_signature_itself_and_what_git_keeps_need_no_signature() -> None:
    more = FILES | {".git/config": "0" * 64, ".gitattributes": "1" * 64, "model.sig": "2" * 64}
    assert signing.verify(BUNDLE, [KEY.public_key()], more)
    with pytest.raises(SignatureError, match=r"a/model\.sig is not signed"):
        signing.verify(BUNDLE, [KEY.public_key()], FILES | {"a/model.sig": "2" * 64})


def test_private_keys_are_read_with_their_password() -> None:
    pem = private_pem(KEY, b"secret")
    assert signing.key_id(signing.read_private_key(pem, b"secret").public_key()) == signing.key_id(KEY.public_key())
    for password, reason in ((None, "Give its password"), (b"wrong", "does not open")):
        with pytest.raises(signing.PasswordError, match=reason):
            signing.read_private_key(pem, password)
    assert signing.read_private_key(private_pem(KEY), b"needless")


def other_keys() -> list[tuple[str, Any]]:
    return [
        ("ed25519", ed25519.Ed25519PrivateKey.generate()),
        ("rsa", rsa.generate_private_key(65537, 2048)),
        ("secp256k1", ec.generate_private_key(ec.SECP256K1())),
    ]


@pytest.mark.parametrize(("name", "key"), other_keys(), ids=lambda value: value if isinstance(value, str) else "")
def test_other_kinds_of_keys_are_refused(name: str, key: Any) -> None:
    with pytest.raises(UnusableKeyError, match="P-256"):
        signing.read_private_key(private_pem(key))
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(UnusableKeyError, match="P-256"):
        signing.read_public_key(pem.decode())


def test_a_private_key_is_not_taken_for_a_public_one() -> None:
    with pytest.raises(UnusableKeyError, match="keep it secret"):
        signing.read_public_key(private_pem(KEY).decode())
    assert signing.read_public_key(public_pem(KEY).strip().replace("\n", "\r\n")).curve.name == "secp256r1"


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN PUBLIC KEY-----\nxxxx\n-----END PUBLIC KEY-----\n"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(UnusableKeyError):
        signing.read_public_key(text)
    with pytest.raises(UnusableKeyError):
        signing.read_private_key(text.encode())
