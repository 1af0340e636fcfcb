"""Small embedding models in every version of their format, and their vectors computed by sentence-transformers.

A separate program, since its imports take seconds: `python sentence_models.py OUT`. Writes a folder for each model, and
`vectors.json`: the texts, and the vectors by the model's name.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from modelshare.demo.tiny_model import write_hf

TEXTS = [
    "The river runs through the old town.",
    "engine",
    "A platform for MODELS, and weights; the engine runs, the old engine runs through the platform.",
]
WORDS = ["river", "runs", "through", "the", "old", "town", "model", "weights", "platform", "engine"]
CONTEXT = 128
OLD = "sentence_transformers.models."


def write_bert(folder: Path, *, lowercase: bool = True) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {
        token: n for n, token in enumerate([*special, *letters, *",.;", *(f"##{one}" for one in letters), *WORDS])
    }
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{token.strip('[]').lower()}_token": token for token in special}
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)


def write_llama(folder: Path) -> None:
    """With random weights, since the vectors of the demo's model depend only on the last word."""
    write_hf(folder)
    (folder / "chat_template.jinja").unlink()  # otherwise it would be applied to texts
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    del tokenizer["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    torch.manual_seed(0)
    given = json.loads((folder / "config.json").read_text())
    config = LlamaConfig(**given | {"initializer_range": 0.3, "max_position_embeddings": CONTEXT})
    LlamaModel(config).save_pretrained(folder)


def saved(base: Path, mode: str, *layers: Any, limit: int | None = None, **options: Any) -> Callable[[Path], None]:
    """A model as saved by the installed release."""

    def save(folder: Path) -> None:
        transformer = Transformer(str(base), max_seq_length=limit)
        pooling = Pooling(transformer.get_embedding_dimension(), mode)
        torch.manual_seed(1)
        after = [layer() for layer in layers]
        model = SentenceTransformer(modules=[transformer, pooling, *after], device="cpu", **options)
        model.save(str(folder), create_model_card=False)

    return save


def changed(
    base: Path, pooling: Any, files: Any = None, *, transformer: str = "", pool: str = "1_Pooling"
) -> Callable[[Path], None]:
    """`base` in an older version of the format, with additional `files` by name."""

    def write(folder: Path) -> None:
        shutil.copytree(base, folder)
        shutil.rmtree(folder / "1_Pooling")
        names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        (folder / "sentence_bert_config.json").unlink()
        for name in names if transformer else ():
            (folder / transformer).mkdir(exist_ok=True)
            (folder / name).rename(folder / transformer / name)
        parts = [("Transformer", transformer), ("Pooling", pool), ("Normalize", "9_Normalize")]
        entries = [{"idx": n, "name": str(n), "path": path, "type": OLD + kind} for n, (kind, path) in enumerate(parts)]
        contents = {"modules.json": entries, f"{pool}/config.json": pooling}
        for name, value in (contents | (files or {})).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(json.dumps(value))

    return write


def flags(mode: str) -> dict[str, Any]:
    names = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "mean_sqrt_len": "mean_sqrt_len_tokens"}
    return {"word_embedding_dimension": 64} | {f"pooling_mode_{flag}": name == mode for name, flag in names.items()}


def norm() -> LayerNorm:
    layer = LayerNorm(32)
    torch.nn.init.normal_(layer.norm.weight)
    torch.nn.init.normal_(layer.norm.bias)
    return layer


def by_name(out: Path) -> dict[str, Callable[[Path], None]]:
    bert, llama, whole, last = out / ".bert", out / ".llama", out / "saved-mean", out / "saved-llama-last"
    prompts: Any = {"prompts": {"query": "old river: ", "other": "x"}, "default_prompt_name": "query"}
    mean, cls = flags("mean"), flags("cls")
    short = {"max_seq_length": 9, "do_lower_case": False}
    return {
        "saved-mean": saved(bert, "mean", Normalize),
        "saved-cls-as-it-is": saved(bert, "cls"),
        "saved-last": saved(bert, "lasttoken", Normalize),
        "saved-llama-last": saved(llama, "lasttoken", Normalize, **prompts),
        "saved-llama-mean-as-it-is": saved(llama, "mean"),
        "saved-short": saved(bert, "mean", Normalize, limit=11),
        "saved-prompt": saved(bert, "mean", Normalize, **prompts),
        "saved-dense": saved(bert, "mean", lambda: Dense(64, 16), Normalize),
        "saved-layers": saved(bert, "cls", lambda: Dense(64, 32, bias=False, activation_function=None), norm),
        "saved-cut": saved(bert, "mean", Normalize, truncate_dim=20),
        "saved-cased": saved(out / ".cased", "mean", Normalize),
        "old-flags": changed(whole, mean),
        "old-word": changed(whole, {"word_embedding_dimension": 64, "pooling_mode": "cls"}),
        "old-cls-elsewhere": changed(whole, cls, {"1_Pooling/config.json": mean}, pool="pool"),
        "old-short": changed(whole, cls, {"sentence_bert_config.json": short}),
        "old-folder": changed(
            whole, mean, {"0_Transformer/sentence_bert_config.json": short}, transformer="0_Transformer"
        ),
        "old-lower": changed(last, mean, {"sentence_bert_config.json": {"do_lower_case": True}}),
    }


def main(out: Path) -> None:
    torch.set_num_threads(1)
    write_bert(out / ".bert")
    write_bert(out / ".cased", lowercase=False)
    write_llama(out / ".llama")
    vectors = {}
    for name, write in by_name(out).items():
        write(out / name)
        model = SentenceTransformer(str(out / name), device="cpu", local_files_only=True)
        vectors[name] = model.encode(TEXTS, batch_size=1).tolist()
    (out / "vectors.json").write_text(json.dumps({"texts": TEXTS, "vectors": vectors}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
