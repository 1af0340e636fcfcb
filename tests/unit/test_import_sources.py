"""What the text of an import's source says, and which endpoint it means."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelshare.server.registry.imports.sources import endpoint_of
from modelshare.wire.importing import SourceKind, parse_source

HUB = "https://hub.example.org/"
DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "kind", "repository", "reference", "endpoint"),
    [
        ("hf:a/b", SourceKind.HUGGING_FACE, "a/b", "main", "https://hub.example.org"),
        ("hf:a-c/b.d_e@refs/pr/1", SourceKind.HUGGING_FACE, "a-c/b.d_e", "refs/pr/1", "https://hub.example.org"),
        ("hf:a/b@1.0.0+x@y", SourceKind.HUGGING_FACE, "a/b", "1.0.0+x@y", "https://hub.example.org"),
        ("oci:h.example/a", SourceKind.OCI, "a", "latest", "https://h.example"),
        ("oci:h.example:5000/a/b__c/d-e:V_1", SourceKind.OCI, "a/b__c/d-e", "V_1", "https://h.example:5000"),
        (f"oci:h/a@{DIGEST}", SourceKind.OCI, "a", DIGEST, "https://h"),
        (f"oci:h/a:tag@{DIGEST}", SourceKind.OCI, "a", DIGEST, "https://h"),
        ("oci:localhost:1/a:b", SourceKind.OCI, "a", "b", "http://localhost:1"),
        ("oci:127.0.0.1/a:b", SourceKind.OCI, "a", "b", "http://127.0.0.1"),
        ("oci:[::1]:5/a:b", SourceKind.OCI, "a", "b", "http://[::1]:5"),
    ],
)
def test_what_a_source_says(text: str, kind: SourceKind, repository: str, reference: str, endpoint: str) -> None:
    found = parse_source(text)
    assert (found.kind, found.repository, found.reference) == (kind, repository, reference)
    assert endpoint_of(found, None, HUB) == endpoint
    assert endpoint_of(found, "https://mirror/", HUB) == "https://mirror"


@given(st.one_of(st.text(), st.builds("{}:{}".format, st.sampled_from(["hf", "oci"]), st.text("ab/@:.-_%?#[]0 \n"))))
@example("hf:" + "a" * 50_000)
@example("oci:h/" + "a-" * 50_000)
@example("oci:h/" + "a_" * 300)
def test_any_text(text: str) -> None:
    """It is read or refused, quickly; what is read cannot change the path of a URL."""
    with contextlib.suppress(ValueError):
        found = parse_source(text)
        assert found.repository.isprintable()
        assert not {"..", ".", ""} & set(found.repository.split("/"))
        assert not set("?#%@ \n") & set(found.repository + found.host)
