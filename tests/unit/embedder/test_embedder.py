"""What sentence-transformers' files declare, in whatever age of their format, and what is said where they do not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.embedder import Embedder, Layer, ModelFiles, UnreadableError, read_embedder
from modelshare.wire.text import fits_name

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
WORD = {"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True}
CONFIG = {"architectures": ["BertModel"], "max_position_embeddings": 128}


def flags(*modes: str) -> dict[str, Any]:
    names = ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    return {"word_embedding_dimension": 8} | {f"pooling_mode_{name}": name in modes for name in names}


def modules(*parts: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"idx": n, "name": str(n), "path": path, "type": type_} for n, (type_, path) in enumerate(parts)]


def model(
    pooling: Any = WORD, *after: tuple[str, str], folder: str = "", files: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The files of a model, as values: its Transformer in `folder`, its Pooling in `pool`."""
    parts = [(OLD + "Transformer", folder), (OLD + "Pooling", "pool"), *after]
    prefix = f"{folder}/" if folder else ""
    return {"modules.json": modules(*parts), "pool/config.json": pooling, f"{prefix}config.json": CONFIG} | (
        files or {}
    )


def of(files: dict[str, Any], root: str = "") -> ModelFiles:
    encoded = {name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in files.items()}
    return ModelFiles(encoded, lambda name, limit: encoded[name][:limit], root)


def read(files: dict[str, Any]) -> Embedder:
    found = read_embedder(of(files))
    assert found
    return found


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        (WORD, "mean"),
        (WORD | {"pooling_mode": "cls"}, "cls"),
        (WORD | {"pooling_mode": ["lasttoken"]}, "lasttoken"),
        (flags("mean_tokens"), "mean"),
        (flags("cls_token"), "cls"),
        (flags("lasttoken"), "lasttoken"),
        ({"word_embedding_dimension": 8, "pooling_mode_cls_token": True}, "cls"),
        (flags("mean_tokens") | {"pooling_mode": "cls"}, "cls"),  # the word goes before the flags
        ({"word_embedding_dimension": 8}, "mean"),
        (flags(), "mean"),
    ],
)
def test_every_age_of_pooling_is_read(pooling: Any, mode: str) -> None:
    found = read(model(pooling))
    assert (found.pooling, found.obstacle) == (mode, None)


@pytest.mark.parametrize(
    ("transformer", "pooling", "normalize"),
    [
        (OLD + "Transformer", OLD + "Pooling", OLD + "Normalize"),
        (OLD + "Transformer.Transformer", OLD + "Pooling.Pooling", OLD + "Normalize.Normalize"),
        (OLD + "BERT", OLD + "Pooling", OLD + "Normalize"),
        (NEW["Transformer"], NEW["Pooling"], NEW["Normalize"]),
    ],
)
def test_every_age_of_names_is_known(transformer: str, pooling: str, normalize: str) -> None:
    files = model() | {"modules.json": modules((transformer, ""), (pooling, "pool"), (normalize, "n"))}
    found = read(files)
    assert (found.pooling, len(found.layers) == 1, found.obstacle) == ("mean", True, None)


@pytest.mark.parametrize("folder", ["", "0_Transformer", "parts/encoder"])
def test_modules_lie_where_the_list_says(folder: str) -> None:
    files = model(WORD | {"pooling_mode": "cls"}, folder=folder) | {"1_Pooling/config.json": flags("mean_tokens")}
    assert (read(files).transformer, read(files).pooling) == (folder, "cls")
    assert read_embedder(of({f"top/{name}": value for name, value in files.items()}, "top")) == read(files)


def test_a_model_that_declares_nothing_is_none() -> None:
    assert read_embedder(of({"config.json": CONFIG})) is None


def test_pooling_without_its_list_counts_all_the_same() -> None:
    found = read({"config.json": CONFIG, "1_Pooling/config.json": flags("cls_token")})
    assert (found.pooling, len(found.layers) == 1, found.obstacle) == ("cls", False, None)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 128),
        ({"sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False}}, 32),
        ({"sentence_roberta_config.json": {"max_seq_length": 32.0}}, 32),
        ({"sentence_bert_config.json": {}, "sentence_xlnet_config.json": {"max_seq_length": 9}}, 9),
        (
            {"sentence_bert_config.json": {"max_seq_length": None}, "tokenizer_config.json": {"model_max_length": 16}},
            16,
        ),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, 128),
        ({"sentence_bert_config.json": {"max_seq_length": 9, "tokenizer_args": {"model_max_length": 7}}}, 7),
        ({"config.json": {"max_position_embeddings": -1}}, None),
    ],
)
def test_the_greatest_length_is_the_one_that_counts(files: dict[str, Any], limit: int | None) -> None:
    assert read(model() | files).most_tokens == limit


def test_settings_lie_beside_the_transformer() -> None:
    settings = {"max_seq_length": 5, "do_lower_case": True}
    files = model(folder="0_Transformer") | {"0_Transformer/sentence_bert_config.json": settings}
    found = read(files | {"sentence_bert_config.json": {"max_seq_length": 99}})
    assert (found.most_tokens, found.lowercases) == (5, True)


@pytest.mark.parametrize(
    ("settings", "prompt", "optional"),
    [
        ({}, "", ()),
        ({"prompts": {"query": "q: ", "passage": "p: "}, "default_prompt_name": "passage"}, "p: ", ("query",)),
        ({"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": None}, "", ("query",)),
        ({"prompts": {}, "default_prompt_name": "query"}, "", ()),
    ],
)
def test_the_default_prompt(settings: dict[str, Any], prompt: str, optional: tuple[str, ...]) -> None:
    found = read(model() | {"config_sentence_transformers.json": settings})
    assert (found.prompt, found.optional_prompts, found.obstacle) == (prompt, optional, None)


WIDTHS = {"in_features": 8, "out_features": 4}
NORM = {"d/config.json": {"dimension": 8}, "d/model.safetensors": b"x"}


def dense(**settings: Any) -> dict[str, Any]:
    given = {"d/config.json": WIDTHS | settings, "d/model.safetensors": b"x"}
    return model(WORD, (OLD + "Dense", "d"), (OLD + "Normalize", "n")) | given


TORCH = "torch.nn.modules."


@pytest.mark.parametrize(
    ("settings", "bias", "activation"),
    [
        ({}, True, "tanh"),
        ({"bias": False, "activation_function": TORCH + "linear.Identity"}, False, "identity"),
        ({"activation_function": TORCH + "activation.ReLU", "module_input_name": "sentence_embedding"}, True, "relu"),
    ],
)
def test_layers_after_the_pooling(settings: dict[str, Any], bias: bool, activation: str) -> None:
    found = read(dense(**settings))
    assert found.obstacle is None
    assert not found.only_normalizes
    assert found.layers == (Layer("Dense", "d/model.safetensors", 8, 4, bias, activation), Layer("Normalize"))


def test_normalization_alone_is_left_to_engines() -> None:
    assert read(model(WORD, (OLD + "Normalize", "n"))).only_normalizes
    assert read(model()).only_normalizes
    assert not read(model(WORD, (OLD + "LayerNorm", "d")) | NORM).only_normalizes
    assert not read(model(files={"config_sentence_transformers.json": {"truncate_dim": 4}})).only_normalizes


PROMPTED = {"prompts": {"a": "x "}, "default_prompt_name": "a"}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (model(WORD | {"pooling_mode": ["mean", "cls"]}), "combines several poolings (mean, cls)"),
        (model(flags("max_tokens", "mean_tokens")), "combines several poolings (max, mean)"),
        (model(WORD | {"pooling_mode": "weightedmean"}), "its pooling is weightedmean"),
        (model(flags("mean_sqrt_len_tokens")), "its pooling is mean_sqrt_len_tokens"),
        (model(WORD | {"temperature": 2}), "it sets temperature"),
        (dense(activation_function=TORCH + "activation.GELU"), "activation is torch.nn.modules.activation.GELU"),
        (dense(use_residual=True), "has a residual connection"),
        (dense(scale=2), "its Dense layer sets scale"),
        (dense(module_input_name="token_embeddings"), "its Dense layer does not work on the text"),
        (model(WORD, (OLD + "WeightedLayerPooling", "d")), "a WeightedLayerPooling after the Pooling"),
        (model(WORD, ("custom_st.Head", "d")), "custom code (custom_st.Head)"),
        ({"config.json": CONFIG, "1_Pooling/config.json": {}}, "its pooling cannot be read, and modules.json"),
        (model() | {"modules.json": []}, "lists no modules"),
        (model() | {"modules.json": modules((OLD + "Router", ""))}, "begins with Router"),
        (model() | {"modules.json": modules((OLD + "Transformer", ""))}, "not followed by a Pooling"),
        (model() | {"modules.json": modules((OLD + "Transformer", ""), (OLD + "WordWeights", "w"))}, "not followed"),
        (
            model(WORD, (OLD + "Normalize", "n"), files={"n/config.json": {"module_input_name": "token_embeddings"}}),
            "does not work on the text",
        ),
        (model(files={"config_sentence_transformers.json": {"model_type": "SparseEncoder"}}), "a SparseEncoder"),
        (
            model(WORD | {"include_prompt": False}, files={"config_sentence_transformers.json": PROMPTED}),
            "excludes its default prompt",
        ),
        (model(files={"sentence_bert_config.json": {"transformer_task": "fill-mask"}}), "it sets transformer_task"),
        (model(files={"sentence_bert_config.json": {"modality_config": {"message": {}}}}), "it sets a modality_config"),
        (model(files={"sentence_bert_config.json": {"config_args": {"is_causal": False}}}), "config_kwargs.is_causal"),
        (model(files={"sentence_bert_config.json": {"novelty": 1}}), "it sets novelty"),
    ],
)
def test_what_cannot_be_computed_says_why(files: dict[str, Any], reason: str) -> None:
    obstacle = read(files).obstacle
    assert obstacle
    assert reason in obstacle


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (model() | {"modules.json": b"{"}, "modules.json is not valid JSON"),
        (model() | {"modules.json": {"0": "Transformer"}}, "not a list of modules"),
        (model() | {"modules.json": [{"name": "0", "path": ""}]}, "without a type"),
        (model() | {"modules.json": [{"name": "0", "type": OLD + "Transformer"}]}, "without a path"),
        (model() | {"modules.json": modules((OLD + "Transformer", ""))[:1] * 2}, "the same name"),
        (model(folder="../up"), "outside"),
        (model() | {"modules.json": modules((OLD + "Transformer", "C:\\x"))}, "outside"),
        (model() | {"modules.json": modules((OLD + "Transformer", "away"))}, "away/config.json, which is missing"),
        ({name: value for name, value in model().items() if name != "pool/config.json"}, "pool/config.json, which is"),
        (model({}), "embedding_dimension"),
        (model(WORD | {"pooling_mode": "attention"}), "but must be one or more of"),
        (model(WORD | {"pooling_mode": []}), "but must be one or more of"),
        (model(WORD | {"pooling_mode": None}), "but must be one or more of"),
        (model(flags() | {"pooling_mode_attention": True}), "pooling_mode_attention"),
        (model(flags() | {"pooling_mode_cls_token": "yes"}), "true or false"),
        (model(WORD, (OLD + "Dense", "d")), "d/config.json, which is missing"),
        (model(WORD, (OLD + "Dense", "d"), files={"d/config.json": {}}), "d/model.safetensors, which is missing"),
        (dense(in_features=None), "does not set its in_features"),
        (dense(activation_function=3), "but must be a name"),
        (model(files={"sentence_bert_config.json": {"max_seq_length": "long"}}), "a positive whole number"),
        (model(files={"sentence_bert_config.json": {"max_seq_length": float("nan")}}), "a positive whole number"),
        (model(files={"sentence_bert_config.json": b"[" * 100_000}), "not valid JSON"),
        (model(files={"config_sentence_transformers.json": {"default_prompt_name": "a"}}), "default prompt a is not"),
        (model(files={"config_sentence_transformers.json": {"prompts": {"a": 1}}}), "not map names to texts"),
        (model(files={"config_sentence_transformers.json": {"prompts": {"a": "\ud800"}}}), "not map names to texts"),
        (model(files={"config_sentence_transformers.json": b'"' + b"x" * (1 << 20)}), "larger than 1 MiB"),
    ],
)
def test_what_is_declared_and_lost_is_refused(files: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        read_embedder(of(files))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
WHOLE = model(WORD, (OLD + "Normalize", "n")) | {
    "sentence_bert_config.json": {"max_seq_length": 9, "modality_config": {"text": {}}, "tokenizer_args": {}},
    "config_sentence_transformers.json": PROMPTED | {"truncate_dim": 3, "model_type": "SentenceTransformer"},
    "tokenizer_config.json": {"model_max_length": 9},
    "n/config.json": {"module_input_name": "sentence_embedding"},
}


@given(st.data())
def test_nothing_else_comes_of_arbitrary_values(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(WHOLE)))
    value = WHOLE[name]
    if isinstance(value, list) and data.draw(st.booleans()):
        entry = data.draw(st.sampled_from(range(len(value))))
        changed: Any = [*value]
        changed[entry] = value[entry] | {data.draw(st.sampled_from(sorted(value[entry]))): data.draw(VALUES)}
    elif isinstance(value, dict) and data.draw(st.booleans()):
        changed = value | {data.draw(st.sampled_from(sorted(value))): data.draw(VALUES)}
    else:
        changed = data.draw(VALUES)
    try:
        found = read_embedder(of(WHOLE | {name: changed}))
    except UnreadableError as error:
        told = str(error)
    else:
        told = (found and found.obstacle) or "."
    assert fits_name(told)
    assert told.endswith(".")
