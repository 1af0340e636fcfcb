"""The types that llama.cpp requires in a model's metadata: it aborts at the first value of another type."""

import re
from typing import Final

from modelshare.server.registry.inspection.gguf import Header
from modelshare.server.registry.inspection.gguf_types import ValueType
from modelshare.server.registry.refused import ModelRejectedError, printable

_TYPES: Final = {
    re.compile(r"general\.(architecture|name)|tokenizer\.ggml\.(model|pre)"): ValueType.STRING,
    re.compile(
        r"general\.file_type|tokenizer\.ggml\.\w+_token_id"
        r"|ARCHITECTURE\.(context_length|embedding_length|block_count|vocab_size|pooling_type|rope\.dimension_count)"
    ): ValueType.UINT32,
    re.compile(
        r"ARCHITECTURE\.(rope\.freq_base|rope\.scaling\.factor|attention\.layer_norm_(rms_)?epsilon)"
    ): ValueType.FLOAT32,
    re.compile(r"tokenizer\.ggml\.(add_(bos|eos|sep)_token|add_space_prefix)"): ValueType.BOOL,
    re.compile(r"tokenizer\.ggml\.(tokens|merges|scores|token_type)"): ValueType.ARRAY,
    re.compile(r"split\.(no|count)"): ValueType.UINT16,
    re.compile(r"split\.tensors\.count"): ValueType.INT32,
}


def check_types(path: str, header: Header) -> None:
    """Raises ModelRejectedError for the first key whose value has a type that llama.cpp does not accept there."""
    prefix = f"{header.text('general.architecture')}."
    for key, found in header.types.items():
        general = f"ARCHITECTURE.{key.removeprefix(prefix)}" if key.startswith(prefix) else key
        wanted = next((wanted for pattern, wanted in _TYPES.items() if pattern.fullmatch(general)), found)
        if found is not wanted:
            raise ModelRejectedError(
                f"{printable(path)} stores {printable(key)} as {found.name}, but llama.cpp accepts only {wanted.name}; "
                "export it with a current tool and push it again."
            )
