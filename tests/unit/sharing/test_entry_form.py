"""A change of what catalog entries hold is a new form, so that those of the version before are rebuilt."""

import hashlib
from types import SimpleNamespace
from typing import Any, cast

from modelshare.server.sharing.search.index import FORM, entry_of

DIGESTS = {1: "4c3b02651118dccb"}
"""Of the samples' entries, by form. A new form gets a line of its own."""
FULL = {
    "project_id": "proj_acme",
    "owner": "acme",
    "audience": "public",
    "role": "shared",
    "name": "Tiny-Llama3",
    "display_name": "Tïny",
    "description": "A model of 7 words, 東京.",
    "tags": ["chat", "two words", "a\nb"],
    "license": "apache-2.0",
    "version": "1.0.0",
    "format": "gguf",
    "architecture": "LlamaForCausalLM",
    "family": "llama",
    "parameters": 7_000_000_000,
    "context_length": 8192,
    "deployment_count": 12,
}
BARE: dict[str, Any] = {
    **FULL,
    **dict.fromkeys(("display_name", "description", "license", "format", "architecture", "family")),
    **dict.fromkeys(("parameters", "context_length")),
    "audience": "targeted",
    "tags": [],
    "deployment_count": 0,
}


def test_the_form_of_entries_is_raised_with_every_change() -> None:
    samples: list[tuple[Any, list[str]]] = [(FULL, []), (BARE, ["proj_borg"]), ({**BARE, "version": None}, [])]
    entries = [entry_of(cast("Any", SimpleNamespace(**source)), shown) for source, shown in samples]
    digest = hashlib.sha256(repr([sorted(entry.items()) for entry in entries]).encode()).hexdigest()[:16]
    assert DIGESTS.get(FORM) == digest, "raise `index.FORM` (see its docstring), and add the digest"
    assert all(str(entry["terms"]).startswith(f" _form{FORM} ") for entry in entries)
