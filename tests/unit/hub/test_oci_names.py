import re

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.hub.oci.rules import repositories_asked, repository_of, sha256_of, tag_of, version_of
from modelshare.wire.base import SLUG_PATTERN
from modelshare.wire.models import MODEL_NAME_PATTERN
from modelshare.wire.semver import SEMVER_PATTERN

# The grammars of https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests.
REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@given(st.from_regex(SLUG_PATTERN), st.from_regex(MODEL_NAME_PATTERN))
def test_a_repository_is_what_clients_take_and_none_that_they_would_take_is_refused(owner: str, name: str) -> None:
    lower = f"{owner}/{name}".lower()
    valid = REPOSITORY.fullmatch(lower) is not None and len(lower) <= 255
    assert repository_of(owner, name) == (lower if valid else None)


def test_names_without_a_repository() -> None:
    assert repository_of("acme", "Tiny-7B.q4_k__m") == "acme/tiny-7b.q4_k__m"
    for name in ("_tiny", "tiny_", "a._b", "a___b", "a.-b", "a-_b"):
        assert repository_of("acme", name) is None


@given(st.from_regex(SEMVER_PATTERN).filter(lambda version: len(version) <= 64))
def test_every_version_has_a_tag_and_is_found_by_it(version: str) -> None:
    assert TAG.fullmatch(tag_of(version))
    assert version_of(tag_of(version)) == version


def test_a_digest_is_told_from_a_tag() -> None:
    assert sha256_of(f"sha256:{'a1' * 32}") == "a1" * 32
    for tag in ("latest", "1.0.0", f"sha256:{'A1' * 32}", "sha256:", f"sha512:{'a1' * 64}", f"sha256:{'a1' * 32}\n"):
        assert sha256_of(tag) is None


def test_a_token_is_for_the_repositories_that_were_asked_for() -> None:
    asked = repositories_asked(
        ["repository:acme/Tiny:pull,push", "repository:b/c:pull repository:d/e:*", "registry:catalog:*"]
    )
    assert asked == ("acme/tiny", "b/c", "d/e")
    assert repositories_asked(["repository:acme/tiny:pull"] * 20) == ("acme/tiny",)
    assert len(repositories_asked([f"repository:acme/{n}:pull" for n in range(20)])) == 8
    assert repositories_asked(["", "repository::pull", "repository:a:b:pull", "acme/tiny"]) == ()
