"""Converted models say what transformers says: the same tokens, with the same probabilities."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from modelshare.agent.convert.gguf_file import WeightType, convert
from modelshare.agent.engines import llamacpp
from modelshare.agent.engines.base import Engine, EngineOptions, EngineSpec, Format, Task
from modelshare.agent.engines.supervisor import ProcessEngine

pytestmark = pytest.mark.anyio

CLOSE = 0.05
"""Of logarithms: llama.cpp keeps keys and values as float16. A tensor in the wrong place moves them by more than 1."""
TEXTS = [
    "The quick brown fox, isn't it? 12345 jumps!!\n\n  over\tthe lazy dog's back.",
    "Ça coûte 3 € à la crèmerie — naïve façade.",
    "机器学习 😀 ﬁ",
    "  two spaces first, and last  ",
    "I'LL WE'VE they're\r\nx=1+2;",
]
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = CONTRACTIONS + r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST

NETWORK: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    # Large enough for attention to matter: with the usual 0.02 a wrong order of its rows would go unnoticed.
    "initializer_range": 0.25,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}


def byte_level(expression: str | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=expression == LLAMA3))
    if expression is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        steps = [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    train(tokenizer, ["<s>", "</s>"], alphabet)
    if expression == LLAMA3:
        begin = ("<s>", tokenizer.token_to_id("<s>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return tokenizer


def sentence_piece() -> Tokenizer:
    """As the ones of Llama 2."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    train(tokenizer, ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))], [])
    # The trainer takes the byte tokens for special ones, which they are not.
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(content))
    begin = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return tokenizer


def train(tokenizer: Tokenizer, special: list[str], alphabet: list[str]) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False, max_token_length=8
    )
    words = [text.replace(" ", "▁") for text in TEXTS] if not alphabet else TEXTS
    tokenizer.train_from_iterator([*words, *words, Path(__file__).read_text()], trainer)


CASES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "llama": ("Llama", {"attention_bias": True}, None),
    "llama-llama3-rope": ("Llama", {"rope_parameters": LLAMA3_ROPE}, LLAMA3),
    "llama-linear-rope": (
        "Llama",
        {"rope_parameters": LINEAR},
        None,
    ),
    "mistral": ("Mistral", {"sliding_window": 256, "head_dim": 32}, "sentencepiece"),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}, QWEN2),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": YARN}, QWEN2),
    "qwen3": ("Qwen3", {"head_dim": 32, "tie_word_embeddings": False}, QWEN2),
}


@pytest.fixture(params=CASES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model with random weights, as transformers saves it."""
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    family, differences, expression = CASES[request.param]
    tokenizer = sentence_piece() if expression == "sentencepiece" else byte_level(expression)
    config = getattr(transformers, f"{family}Config")(
        **(NETWORK | differences),
        vocab_size=tokenizer.get_vocab_size() + 3,  # padded, as embeddings often are
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=tokenizer.token_to_id("</s>"),
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases begin as ones and zeros, which hides them
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.3)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(specials))
    return tmp_path / "model"


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Engine]:
    gguf = folder.parent / "model.gguf"
    convert(folder, gguf, WeightType.F32)
    options = EngineOptions(threads=1, parallel=1)
    spec = EngineSpec(path=gguf, served_name="m", format=Format.GGUF, task=Task.COMPLETION, options=options)
    engine = ProcessEngine(llamacpp.recipe(spec), folder.parent)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def test_agrees_with_transformers(folder: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    compared = 0
    async with serving(folder) as engine, aiohttp.ClientSession(headers=engine.headers) as http:
        for text in TEXTS:
            ids: list[int] = tokenizer.encode(text).ids
            tokenized = {"content": text, "add_special": True}
            async with http.post(engine.base_url.removesuffix("/v1") + "/tokenize", json=tokenized) as answer:
                assert (await answer.json())["tokens"] == ids, text

            for end in range(1, len(ids), 1 + len(ids) // 8):
                with torch.no_grad():
                    expected = torch.log_softmax(model(torch.tensor([ids[:end]])).logits[0, -1], 0)
                body = {"prompt": ids[:end], "n_predict": 1, "temperature": 0, "n_probs": 4}
                async with http.post(engine.base_url.removesuffix("/v1") + "/completion", json=body) as answer:
                    # It keeps quiet about a token that is only a part of a character.
                    told = (await answer.json()).get("completion_probabilities", [])
                for said in told:
                    compared += 1
                    assert expected[said["id"]] == pytest.approx(float(expected.max()), abs=CLOSE)
                    for top in said["top_logprobs"]:
                        assert top["logprob"] == pytest.approx(float(expected[top["id"]]), abs=CLOSE)
    assert compared > 10
