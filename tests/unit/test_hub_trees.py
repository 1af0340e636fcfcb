"""What commits do to a branch, and what a client is still about to commit."""

from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.hub.hugging_face import trees
from modelshare.server.hub.hugging_face.trees import Change, Entry
from modelshare.wire import hub_tokens, model_files

PATHS = st.sampled_from(["a", "b", "c/a", "c/b", "c/d/a", "config.json", "model.safetensors"])
ENTRIES = st.builds(Entry, st.sampled_from(["0" * 64, "1" * 64]), st.integers(0, 3))
TREES = st.dictionaries(PATHS, ENTRIES)
CHANGES = st.lists(st.builds(Change, PATHS, st.none() | ENTRIES))


@given(TREES, CHANGES)
def test_a_commit_changes_only_what_it_names(tree: dict[str, Entry], changes: list[Change]) -> None:
    after = trees.apply(tree, changes)
    named = {change.path for change in changes}
    assert {path: entry for path, entry in after.items() if path not in named} == {
        path: entry for path, entry in tree.items() if path not in named
    }
    last = {change.path: change.entry for change in changes}
    assert all(after.get(path) == entry for path, entry in last.items())


def test_a_folder_is_deleted_with_all_below_it() -> None:
    tree = dict.fromkeys(["a", "c/a", "c/d/a", "cc"], Entry("0" * 64, 1))
    assert trees.apply(tree, [Change("c", is_folder=True)]).keys() == {"a", "cc"}
    assert trees.apply(tree, [Change("c/", is_folder=True)]).keys() == {"a", "cc"}


@given(TREES)
def test_a_tree_is_kept_as_it_is(tree: dict[str, Entry]) -> None:
    assert trees.of_json(trees.to_json(tree)) == tree
    assert trees.commit_of("main", tree) == trees.commit_of("main", trees.of_json(trees.to_json(tree)))
    assert len(trees.commit_of("main", tree)) == 40


def test_an_upload_is_over_when_it_has_committed_all_that_it_announced() -> None:
    announced = {"stale": 1, "a": 2, "b": 2, "c": 3, "unchanged": 3}
    rest = trees.still_to_come(announced, {"a"}, {"unchanged": Entry("0" * 64, 1)})
    assert rest == {"b": 2, "c": 3}
    rest = trees.still_to_come(rest, {"b", "c"}, {})
    assert rest == {}
    assert trees.still_to_come(announced, set(), {}) == {}, "a commit that only deletes"


def test_a_model_is_complete_with_weights_and_config() -> None:
    incomplete = [
        ["README.md"],
        ["config.json"],
        ["model.safetensors"],
        ["config.json", "model-00001-of-00002.safetensors"],
        ["model-00002-of-00002.gguf"],
    ]
    complete = [["model.gguf"], ["config.json", "model.safetensors"], ["adapter_config.json", "a.safetensors"]]
    assert all(model_files.incomplete(paths) for paths in incomplete)
    assert not any(model_files.incomplete(paths) for paths in complete)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=110).map("ms_".__add__))
def test_a_key_in_the_form_of_a_token_is_that_key(key: str) -> None:
    token = hub_tokens.token_of(key)
    assert token.removeprefix("hf_").isalnum()
    assert hub_tokens.key_of(token) == key


def test_no_other_text_is_a_key() -> None:
    assert [hub_tokens.key_of(text) for text in ("", "hf_", "hf_abc", "hf_ff", "ms_acme_x", "hf_" + "0" * 9999)] == [
        None
    ] * 6
