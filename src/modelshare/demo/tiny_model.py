"""Tiny Llama chat models that real engines load and that always say the same sentence.

For the demo and for tests: half a megabyte, made in a fifth of a second from a fixed seed, without PyTorch and without
a network. Every prompt is answered with `REPLY`; the looping variant counts until it is told to stop.

The weights are seeded noise with two edits:

* Residual channel 0 is the same for every token, so that its column of the output head works as a bias: special tokens
  and bytes that are not ASCII are never sampled, and the answer is always valid UTF-8.
* The output head holds a bigram table: the end of the assistant's header leads to the first token of the reply, each
  token to the next one, and the last one to the end of the turn (or, in the looping variant, back to the first).

`python -m modelshare.demo.tiny_model PATH [--loop]` writes a `.gguf` file, or a folder for any other name.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

REPLY: Final = "Hello from the tiny test model."
LOOP: Final = "one two three four five six seven eight nine ten "

Array = NDArray[np.float32]

_BOS, _EOS, _PAD, _START, _END = "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"
_SPECIAL = [_PAD, _BOS, _EOS, _START, _END]
_NEWLINE = "Ċ"  # a line feed in the byte-level alphabet: the last token of the assistant's header
_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = [
    REPLY,
    LOOP * 4,
    "system user assistant tool",
    "Hello, how are you? What is the capital of France?",
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs.",
    "A model platform stores weights, verifies digests, starts an engine and relays requests.",
] * 4

_VOCABULARY = 512
_WIDTH, _LAYERS, _HEADS, _KV_HEADS, _INNER, _CONTEXT = 64, 2, 4, 2, 128, 2048
_HEAD_WIDTH = _WIDTH // _HEADS
_EPSILON, _ROPE_BASE = 1e-5, 10000.0
_SEED = 0

_NEVER = -20.0  # bias of a token that must not be sampled
_ONLY_WHEN_LED_TO = -1.5  # bias of the end of the turn: noise does not reach it, its predecessor does
_LEADS_TO = 6.0  # strength of the bigram table

_CARD = """\
---
license: apache-2.0
language:
- en
pipeline_tag: text-generation
tags:
- chat
- test
---
# {name}

A tiny Llama that every engine loads, and that has one thing to say.
"""


@dataclass(frozen=True, slots=True)
class _TinyModel:
    name: str
    tokenizer: Tokenizer
    tokens: dict[str, int]
    weights: dict[str, Array]


def write_gguf(path: Path, *, loop: bool = False, name: str | None = None) -> None:
    """Write the model as one GGUF file."""
    model = _make(loop=loop, name=name)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(model.name)
    writer.add_license("apache-2.0")
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(_EPSILON)
    writer.add_rope_freq_base(_ROPE_BASE)
    writer.add_rope_dimension_count(_HEAD_WIDTH)
    writer.add_vocab_size(len(model.tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, model)
    for hf_name, tensor in model.weights.items():
        writer.add_tensor(*_gguf_tensor(hf_name, tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_hf(directory: Path, *, loop: bool = False, name: str | None = None, pad_bytes: int = 0) -> None:
    """Write the model as a Hugging Face folder, made if absent.

    `pad_bytes` of noise in `padding.safetensors`, which no engine reads, make it as large as a test of transfers needs.
    """
    model = _make(loop=loop, name=name)
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", _config(model.tokens))
    _write_json(directory / "generation_config.json", _generation_config(model.tokens))
    _write_json(directory / "tokenizer_config.json", _tokenizer_config())
    model.tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(_CHAT_TEMPLATE)
    (directory / "README.md").write_text(_CARD.format(name=model.name))
    save_file(model.weights, directory / "model.safetensors", metadata={"format": "pt"})
    if pad_bytes:
        noise = np.frombuffer(np.random.default_rng(_SEED).bytes(pad_bytes), np.uint8)
        save_file({"padding": noise}, directory / "padding.safetensors")


def _make(*, loop: bool, name: str | None) -> _TinyModel:
    tokenizer = _train_tokenizer()
    tokens = tokenizer.get_vocab()
    reply = tokenizer.encode(LOOP if loop else REPLY, add_special_tokens=False).ids
    chain = [tokens[_NEWLINE], *reply, reply[0] if loop else tokens[_END]]
    return _TinyModel(
        name or ("tiny-llama-loop" if loop else "tiny-llama-chat"), tokenizer, tokens, _weights(tokens, chain)
    )


def _train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _weights(tokens: dict[str, int], chain: Sequence[int]) -> dict[str, Array]:
    rng = np.random.default_rng(_SEED)

    def noise(*shape: int, scale: float = 0.02) -> Array:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    # Channels 1 and up: a random direction of length 1 per token, so that the bigram table can tell tokens apart.
    codes = noise(len(tokens), _WIDTH, scale=1.0)
    codes[:, 1:] /= np.linalg.norm(codes[:, 1:], axis=1, keepdims=True)
    codes[:, 0] = 1.0
    weights = {"model.embed_tokens.weight": codes}
    for layer in range(_LAYERS):
        block = {
            "self_attn.q_proj": noise(_WIDTH, _WIDTH),
            "self_attn.k_proj": noise(_KV_HEADS * _HEAD_WIDTH, _WIDTH),
            "self_attn.v_proj": noise(_KV_HEADS * _HEAD_WIDTH, _WIDTH),
            "self_attn.o_proj": noise(_WIDTH, _WIDTH),
            "mlp.gate_proj": noise(_INNER, _WIDTH),
            "mlp.up_proj": noise(_INNER, _WIDTH),
            "mlp.down_proj": noise(_WIDTH, _INNER),
            "input_layernorm": np.ones(_WIDTH, np.float32),
            "post_attention_layernorm": np.ones(_WIDTH, np.float32),
        }
        block["self_attn.o_proj"][0] = block["mlp.down_proj"][0] = 0.0  # channel 0 stays the same
        weights |= {f"model.layers.{layer}.{part}.weight": tensor for part, tensor in block.items()}
    weights["model.norm.weight"] = np.ones(_WIDTH, np.float32)
    weights["lm_head.weight"] = _output_head(tokens, codes, chain, noise(len(tokens), _WIDTH, scale=0.05))
    return weights


def _output_head(tokens: dict[str, int], codes: Array, chain: Sequence[int], head: Array) -> Array:
    head[:, 0] = 0.0
    for token, index in tokens.items():
        if token in _SPECIAL or not token.replace("Ġ", "").replace(_NEWLINE, "").isascii():
            head[index, 0] = _NEVER
    if chain[-1] == tokens[_END]:
        head[tokens[_END], 0] = _ONLY_WHEN_LED_TO
    for previous, following in pairwise(chain):
        head[following, 1:] += _LEADS_TO * codes[previous, 1:]
    return head


def _config(tokens: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokens),
        "hidden_size": _WIDTH,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_WIDTH,
        "hidden_act": "silu",
        "max_position_embeddings": _CONTEXT,
        "rms_norm_eps": _EPSILON,
        "rope_theta": _ROPE_BASE,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "use_cache": True,
        "initializer_range": 0.02,
        "bos_token_id": tokens[_BOS],
        "eos_token_id": tokens[_END],
        "pad_token_id": tokens[_PAD],
        "torch_dtype": "float32",
    }


def _generation_config(tokens: dict[str, int]) -> dict[str, Any]:
    return {
        "bos_token_id": tokens[_BOS],
        "eos_token_id": [tokens[_END], tokens[_EOS]],
        "pad_token_id": tokens[_PAD],
        "do_sample": False,
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _CONTEXT,
        "bos_token": _BOS,
        "eos_token": _END,
        "pad_token": _PAD,
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _add_tokenizer(writer: gguf.GGUFWriter, model: _TinyModel) -> None:
    names = sorted(model.tokens, key=model.tokens.__getitem__)
    merges = json.loads(model.tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([gguf.TokenType.CONTROL if name in _SPECIAL else gguf.TokenType.NORMAL for name in names])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(model.tokens[_BOS])
    writer.add_eos_token_id(model.tokens[_END])
    writer.add_pad_token_id(model.tokens[_PAD])
    writer.add_add_bos_token(False)  # the chat template writes it
    writer.add_chat_template(_CHAT_TEMPLATE)


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def _gguf_tensor(hf_name: str, tensor: Array) -> tuple[str, Array]:
    module = hf_name.removesuffix(".weight")
    if not module.startswith("model.layers."):
        return f"{_GGUF_NAMES[module]}.weight", tensor
    layer, part = module.removeprefix("model.layers.").split(".", 1)
    if part == "self_attn.q_proj":
        tensor = _for_interleaved_rope(tensor, _HEADS)
    elif part == "self_attn.k_proj":
        tensor = _for_interleaved_rope(tensor, _KV_HEADS)
    return f"blk.{layer}.{_GGUF_NAMES[part]}.weight", tensor


def _for_interleaved_rope(tensor: Array, heads: int) -> Array:
    """Hugging Face's Llama rotates channel i with i + n/2, GGUF's rotates neighbours: reorder the rows of each head."""
    return np.ascontiguousarray(tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--loop", action="store_true")
    arguments = parser.parse_args()
    (write_gguf if arguments.path.suffix == ".gguf" else write_hf)(arguments.path, loop=arguments.loop)
