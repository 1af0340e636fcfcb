"""Signatures of models in the form of OpenSSF Model Signing, made and checked from digests: no file is read.

A signature is a Sigstore bundle (https://docs.sigstore.dev/about/bundle) with a DSSE envelope, whose payload is an
in-toto statement that lists every file with its SHA-256. `model_signing` reads and writes the same. Only signatures by
a key are known here, never by a certificate, and a key counts only where somebody named it beforehand.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Meta

from modelshare.wire.signers import KEY_ID_PATTERN

SIGNATURE_FILE: Final = "model.sig"
"""Where a signature lies in a model's folder. It covers the other files."""
MAX_BUNDLE: Final = 8 << 20
"""Bytes: 10,000 files with paths of 300 characters."""
_MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE: Final = "https://model_signing/signature/v1.0"
_HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_NOT_COVERED: Final = frozenset({SIGNATURE_FILE, ".git", ".gitattributes", ".github", ".gitignore"})
"""What `model_signing` leaves out: names at the top of the folder, each with all that lies below it."""
_MAX_FILES: Final = 10_000
_NAMED: Final = 3
"""Files that a reason names."""
_USABLE_KEYS: Final = (
    "Use an EC key on the curve P-256, P-384 or P-521; `openssl ecparam -name prime256v1 -genkey` makes one."
)

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey
Digests = Mapping[str, str]
"""SHA-256 in hexadecimal digits, by path."""


class UnusableKeyError(ValueError):
    """The text is no key that signs models. Says why, and what to do."""


class PasswordError(UnusableKeyError):
    """The private key is encrypted, and the password is missing or wrong."""


class SignatureError(ValueError):
    """The bundle is no valid signature of these files. Says why, without what to do."""


class UnknownSignerError(SignatureError):
    """The bundle was signed with a key that is not among those that were asked for."""


def read_private_key(pem: bytes, password: bytes | None = None) -> PrivateKey:
    """Raises UnusableKeyError, and PasswordError where a password would help."""
    try:
        key = serialization.load_pem_private_key(pem, password)
    except TypeError as error:  # encrypted without a password, or the other way round
        if password is not None:
            return read_private_key(pem)
        raise PasswordError("This private key is encrypted. Give its password.") from error
    except ValueError as error:
        if b"ENCRYPTED" in pem and password is not None:
            raise PasswordError("The password does not open this private key.") from error
        raise UnusableKeyError(f"This is not a private key in PEM form. {_USABLE_KEYS}") from error
    except UnsupportedAlgorithm as error:
        raise UnusableKeyError(f"This kind of key cannot sign models. {_USABLE_KEYS}") from error
    if not isinstance(key, PrivateKey):
        raise UnusableKeyError(f"This kind of key cannot sign models. {_USABLE_KEYS}")
    _check_curve(key.curve)
    return key


def read_public_key(pem: str) -> PublicKey:
    """Raises UnusableKeyError."""
    if "PRIVATE KEY" in pem:
        raise UnusableKeyError(
            "This is a private key: keep it secret. `openssl ec -in KEY -pubout` gives its public key."
        )
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableKeyError(f"This is not a public key in PEM form. {_USABLE_KEYS}") from error
    if not isinstance(key, PublicKey):
        raise UnusableKeyError(f"This kind of key cannot sign models. {_USABLE_KEYS}")
    _check_curve(key.curve)
    return key


def to_pem(key: PublicKey) -> str:
    """The one PEM form of the key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


def key_id(key: PublicKey) -> str:
    """The SHA-256 of its PEM form: what bundles name the key by."""
    return hashlib.sha256(to_pem(key).encode()).hexdigest()


def covered(files: Digests) -> dict[str, str]:
    """The files that a signature covers."""
    return {path: digest for path, digest in files.items() if path.partition("/")[0] not in _NOT_COVERED}


def statement(files: Digests, name: str) -> dict[str, Any]:
    """What is signed: the covered files with their digests, and a digest of those, under a name that binds nothing."""
    ordered = sorted(covered(files).items())
    return {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root([digest for _, digest in ordered])}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(_NOT_COVERED),
            },
            "resources": [{"name": path, "algorithm": "sha256", "digest": digest} for path, digest in ordered],
        },
    }


def sign(key: PrivateKey, files: Digests, name: str) -> bytes:
    """The bundle, as it is written to a file."""
    payload = json.dumps(statement(files, name), ensure_ascii=False).encode()
    signature = key.sign(_pae(payload), _algorithm(key.curve))
    bundle = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, indent=2).encode()


@dataclass(frozen=True, slots=True)
class Bundle:
    """A signature as it was read. Nothing of it is proven."""

    key_id: str
    """The key that it claims to be made with."""
    payload: bytes
    signature: bytes

    def check_key(self, key: PublicKey) -> None:
        """Raises SignatureError unless this key signed the statement."""
        try:
            key.verify(self.signature, _pae(self.payload), _algorithm(key.curve))
        except InvalidSignature as error:
            raise SignatureError("the key did not sign this statement") from error

    def check_files(self, files: Digests, *, are_all: bool = True) -> None:
        """Raises SignatureError unless the statement lists these files with these digests.

        `are_all`: and no others; without it they may be some of the files that were signed.
        """
        signed = _signed_files(self.payload)
        changed = [path for path, digest in files.items() if signed.get(path, digest) != digest]
        unsigned = covered(files).keys() - signed.keys()
        missing = signed.keys() - files.keys() if are_all else ()
        for what, paths in (("changed since it was signed", changed), ("not signed", unsigned), ("missing", missing)):
            if paths:
                raise SignatureError(f"{_named(paths)} {what}")


def read_bundle(data: bytes) -> Bundle:
    """Raises SignatureError."""
    if len(data) > MAX_BUNDLE:
        raise SignatureError(f"a signature has at most {MAX_BUNDLE >> 20} MiB")
    if _decoded(data, _Header).media_type != _MEDIA_TYPE:
        raise SignatureError("it is not a Sigstore bundle of version 0.3")
    bundle = _decoded(data, _BundleFields)
    if bundle.verification_material.public_key is None:
        raise SignatureError("it was signed with a certificate, and only keys are supported")
    envelope = bundle.dsse_envelope
    if envelope is None or envelope.payload_type != _PAYLOAD_TYPE or len(envelope.signatures) != 1:
        raise SignatureError("it does not contain exactly one signature of an in-toto statement")
    return Bundle(bundle.verification_material.public_key.hint, envelope.payload, envelope.signatures[0].sig)


def verify(data: bytes, keys: Iterable[PublicKey], files: Digests, *, are_all: bool = True) -> str:
    """The id of the one of these keys that signed these files. Raises SignatureError.

    Nothing of the statement is read before its signature has proved right.
    """
    bundle = read_bundle(data)
    key = next((each for each in keys if key_id(each) == bundle.key_id), None)
    if key is None:
        raise UnknownSignerError("it was signed with a key that is not known here")
    bundle.check_key(key)
    bundle.check_files(files, are_all=are_all)
    return bundle.key_id


class _Header(msgspec.Struct, rename="camel"):
    media_type: str


class _KeyHint(msgspec.Struct):
    hint: Annotated[str, Meta(pattern=KEY_ID_PATTERN)]


class _Material(msgspec.Struct, rename="camel"):
    public_key: _KeyHint | None = None


class _Signature(msgspec.Struct):
    sig: bytes


class _Envelope(msgspec.Struct, rename="camel"):
    payload: bytes
    payload_type: str
    signatures: list[_Signature]


class _BundleFields(msgspec.Struct, rename="camel"):
    verification_material: _Material
    dsse_envelope: _Envelope | None = None


class _StatementHeader(msgspec.Struct, rename="camel"):
    predicate_type: str
    type: str = msgspec.field(name="_type")


class _SubjectDigest(msgspec.Struct):
    sha256: str


class _Subject(msgspec.Struct):
    digest: _SubjectDigest


class _Serialization(msgspec.Struct):
    method: str
    hash_type: str = "sha256"


class _Resource(msgspec.Struct):
    name: str
    digest: str
    algorithm: str


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: Annotated[list[_Resource], Meta(max_length=_MAX_FILES)]


class _Statement(msgspec.Struct):
    subject: Annotated[list[_Subject], Meta(min_length=1, max_length=1)]
    predicate: _Predicate


Form = TypeVar("Form")


def _decoded(data: bytes, form: type[Form]) -> Form:
    try:
        return msgspec.json.decode(data, type=form)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SignatureError("it does not have the form of a model's signature") from error


def _signed_files(payload: bytes) -> dict[str, str]:
    """The files that a statement lists. Raises SignatureError."""
    header = _decoded(payload, _StatementHeader)
    if (header.type, header.predicate_type) != (_STATEMENT_TYPE, _PREDICATE_TYPE):
        raise SignatureError("its statement is not about a model, or of another version")
    read = _decoded(payload, _Statement)
    resources, serialization = read.predicate.resources, read.predicate.serialization
    algorithms = {serialization.hash_type, *(resource.algorithm for resource in resources)}
    if serialization.method != "files" or algorithms != {"sha256"}:
        raise SignatureError("it cannot be checked from digests: sign whole files (not shards) with SHA-256")
    try:
        root = _root([resource.digest for resource in resources])
    except ValueError as error:
        raise SignatureError("its statement contains a digest that is not a SHA-256") from error
    signed = {resource.name: resource.digest for resource in resources}
    if root != read.subject[0].digest.sha256 or len(signed) != len(resources):
        raise SignatureError("its statement contradicts itself")
    return signed


def _root(digests: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md"""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _algorithm(curve: ec.EllipticCurve) -> ec.ECDSA:
    return ec.ECDSA(_HASHES[curve.name])


def _check_curve(curve: ec.EllipticCurve) -> None:
    if curve.name not in _HASHES:
        raise UnusableKeyError(f"The curve {curve.name} cannot sign models. {_USABLE_KEYS}")


def _named(paths: Iterable[str]) -> str:
    first, *others = sorted(paths)
    names = ", ".join([first, *others[: _NAMED - 1]])
    more = len(others) + 1 - _NAMED
    return f"{names} and {more} more files are" if more > 0 else f"{names} {'are' if others else 'is'}"
