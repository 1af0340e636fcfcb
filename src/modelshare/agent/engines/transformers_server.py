"""`transformers serve` within the model's context: `python -m modelshare.agent.engines.transformers_server --model F`.

transformers goes on beyond the context, with nonsense, or with an error after which its process cannot use the GPU any
more. Prompts are counted here once it has tokenized them, so the count is exact. Exits as well when its standard input
closes. Other options are passed on.
"""

import argparse
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from fastapi import HTTPException
from transformers import AutoConfig
from transformers.cli.serving.utils import GenerateManager
from transformers.cli.transformers import app

from modelshare.agent.engines import lifeline
from modelshare.agent.engines.transformers import answer_tokens, device_options


def main() -> None:
    lifeline.attach()
    arguments, others = _parse()
    config = AutoConfig.from_pretrained(arguments.model, trust_remote_code=False)
    text_config = config.get_text_config()  # of the language part, if there are others
    context = arguments.context or getattr(text_config, "max_position_embeddings", None)
    if context is not None:
        _limit(context)
    options = device_options(
        cuda=arguments.gpu and torch.cuda.is_available(),
        declared=str(config.dtype or text_config.dtype).removeprefix("torch."),
        weights_bytes=arguments.weights_bytes,
    )
    app(["serve", arguments.model, "--host", "127.0.0.1", "--port", str(arguments.port), *options, *others])


def _parse() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--weights-bytes", type=int, required=True)
    parser.add_argument("--context", type=int, help="tokens per request; by default as the model declares")
    parser.add_argument("--gpu", action="store_true")
    return parser.parse_known_args()


def _limit(context: int) -> None:
    """Every request passes one of these methods on the way to the model, before its response begins."""
    for name in ("generate_streaming", "generate_non_streaming"):
        setattr(GenerateManager, name, _limited(getattr(GenerateManager, name), context))


def _limited(generate: Callable[..., Any], context: int) -> Callable[..., Any]:
    @wraps(generate)
    def generate_within(manager: Any, model: Any, processor: Any, inputs: Any, config: Any, **others: Any) -> Any:
        tokens = answer_tokens(inputs["input_ids"].shape[-1], config.max_new_tokens, context)
        if tokens < 1:
            raise HTTPException(400, "The prompt is longer than the model's context.")
        config.max_new_tokens = tokens
        return generate(manager, model, processor, inputs, config, **others)

    return generate_within


if __name__ == "__main__":
    main()
