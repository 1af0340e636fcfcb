"""Keys that tests sign with. One for each curve: making them takes a moment."""

from functools import cache

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelshare.wire import signing

CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


def private_key(name: str = "P-256", number: int = 0) -> signing.PrivateKey:
    """The same in every call of a test run."""
    return _private_key(name, number)


@cache
def _private_key(name: str, _: int) -> signing.PrivateKey:
    return ec.generate_private_key(CURVES[name])


def private_pem(key: signing.PrivateKey, password: bytes | None = None) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    closed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, closed)


def public_pem(key: signing.PrivateKey) -> str:
    return signing.to_pem(key.public_key())


async def register(http: httpx.AsyncClient, key: signing.PrivateKey, name: str = "release") -> dict[str, str]:
    """The key as a signer of the client's project."""
    answer = await http.post("/v1/signers", json={"name": name, "public_key": public_pem(key)})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def bundle_for(http: httpx.AsyncClient, model: object, key: signing.PrivateKey, version: str = "1.0.0") -> bytes:
    """A signature of a version, from its manifest."""
    manifest = (await http.get(f"/v1/models/{model}/versions/{version}/manifest")).json()
    return signing.sign(key, {file["path"]: file["sha256"] for file in manifest["files"]}, "x")


async def sign(
    http: httpx.AsyncClient, model: object, key: signing.PrivateKey, version: str = "1.0.0"
) -> httpx.Response:
    """Signs a version as its owner does."""
    bundle = await bundle_for(http, model, key, version)
    return await http.post(f"/v1/models/{model}/versions/{version}/signature", content=bundle)
