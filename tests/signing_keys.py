"""Keys that tests sign with. One for each curve: making them takes a moment."""

from functools import cache

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelshare.wire import signing

CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


@cache
def private_key(name: str = "P-256", number: int = 0) -> signing.PrivateKey:
    """The same in every call of a test run."""
    return ec.generate_private_key(CURVES[name])


def private_pem(key: signing.PrivateKey, password: bytes | None = None) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    closed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, closed)


def public_pem(key: signing.PrivateKey) -> str:
    return signing.to_pem(key.public_key())
