"""Tokenizes texts to embed with the model's own tokenizer, prompt and truncation.

Engines get tokens, since llama.cpp may tokenize a text differently, and no engine adds prompts or truncates texts as
sentence-transformers does.
"""

from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer, normalizers

from modelshare.agent.engines.refusals import too_long
from modelshare.embedder import Embedder
from modelshare.wire.inference import BadInferenceRequestError

_FIELD = "input"


class TextEncoder:
    """The tokenizer of one model. Thread-safe."""

    def __init__(self, tokenizer_file: Path, embedder: Embedder) -> None:
        """Raises the library's exception if the file is not a tokenizer."""
        self._prompt = embedder.prompt
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if embedder.lowercases:
            present = self._tokenizer.normalizer
            steps = [normalizers.Lowercase(), *([present] if present is not None else [])]
            self._tokenizer.normalizer = normalizers.Sequence(steps)
        if embedder.most_tokens is not None:
            direction = "left" if embedder.cuts_beginning else "right"
            self._tokenizer.enable_truncation(embedder.most_tokens, direction=direction)
        self._special = self._tokenizer.num_special_tokens_to_add(is_pair=False)

    def encoded(self, given: msgspec.Raw, context: int | None) -> msgspec.Raw:
        """Converts a request's `input` to lists of tokens.

        Raises EngineRefusalError for a text that exceeds `context`, and BadInferenceRequestError for tokens if the
        model needs a prompt before each text.
        """
        value: Any = msgspec.json.decode(given)
        texts = [value] if isinstance(value, str) else value
        if not all(isinstance(text, str) for text in texts):
            if self._prompt:
                raise BadInferenceRequestError("This model adds a prompt to each text. Send texts, not tokens.", _FIELD)
            return given
        return msgspec.Raw(msgspec.json.encode([self._tokens(text, context) for text in texts]))

    def _tokens(self, text: str, context: int | None) -> list[int]:
        encoding = self._tokenizer.encode(self._prompt + text)
        tokens: list[int] = encoding.ids
        whole = len(tokens) + sum(len(rest.ids) - self._special for rest in encoding.overflowing)
        if context is not None and whole > context:
            raise too_long(_FIELD)
        return tokens
