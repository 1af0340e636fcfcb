"""The parameters of a request: which exist, their types, and which ones each engine supports. Pure.

A parameter that changes the answer is either supported by the engine or rejected; none is silently ignored. Unlisted
fields never reach an engine, since engines have some that clients must not control, such as a slot number or a cache
salt.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from modelshare.wire.inference import BadInferenceRequestError, decoded

Fields = dict[str, msgspec.Raw]

_TEXT_ONLY: Final = "This model accepts only text: `messages` may contain strings, and parts of type `text`."
_TEXT_PART: Final = frozenset({"type", "text", "refusal", "cache_control", "annotations"})
_Token = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
_Limit = Annotated[int, Meta(ge=1, le=(1 << 31) - 1)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_Penalty = Annotated[float, Meta(ge=-2, le=2)]
_Seed = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Logprobs = Annotated[int, Meta(ge=0, le=20)]
_Object = dict[str, msgspec.Raw]
_Stop = Annotated[str, Meta(min_length=1)]
_Window = Annotated[int, Meta(ge=0, le=1 << 17)]
"""Number of previous tokens that a penalty considers. llama.cpp allocates memory for as many as requested."""


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class _Extras(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Engine-specific parameters beyond OpenAI's, with the engines' own names."""

    top_k: int | None = None
    min_p: _Share | None = None
    typical_p: _Share | None = None
    repeat_penalty: float | None = None
    repeat_last_n: _Window | None = None
    repetition_penalty: float | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: _Window | None = None
    xtc_probability: _Share | None = None
    xtc_threshold: float | None = None
    top_n_sigma: float | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[_Token] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[_Token] | None = None
    include_stop_str_in_output: bool | None = None
    no_stop_trim: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    grammar: str | None = None
    json_schema: _Object | None = None
    regex: str | None = None
    ebnf: str | None = None
    structured_outputs: _Object | None = None


class _Generation(_Extras, kw_only=True):
    """Common to both generating routes."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = None
    max_tokens: _Limit | None = None
    temperature: Annotated[float, Meta(ge=0, le=100)] | None = None
    top_p: _Share | None = None
    stop: _Stop | list[_Stop] | None = None
    seed: _Seed | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    user: str | None = None


class _Function(msgspec.Struct):
    name: str
    arguments: str | _Object


class _ToolCall(msgspec.Struct):
    id: str
    type: str
    function: _Function


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    # Fields in which some servers accept content other than text.
    audio: Any = None
    images: Any = None
    image_url: Any = None
    video_url: Any = None
    files: Any = None


class _JsonSchema(msgspec.Struct):
    schema: _Object


class _Format(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None
    schema: _Object | None = None
    """llama.cpp's schema for a `json_object`."""


class _Chat(_Generation, kw_only=True):
    messages: Annotated[list[_Message], Meta(min_length=1)]
    max_completion_tokens: _Limit | None = None
    logprobs: bool | None = None
    top_logprobs: _Logprobs | None = None
    tools: list[_Object] | None = None
    tool_choice: str | _Object | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    functions: list[_Object] | None = None
    function_call: str | _Object | None = None
    modalities: list[str] | None = None
    audio: _Object | None = None
    web_search_options: _Object | None = None
    prediction: _Object | None = None
    metadata: _Object | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    # Not in OpenAI's API.
    chat_template_kwargs: _Object | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    include_reasoning: bool | None = None
    separate_reasoning: bool | None = None
    stream_reasoning: bool | None = None
    reasoning_format: Literal["none", "auto", "deepseek", "deepseek-legacy"] | None = None


class _Completion(_Generation, kw_only=True):
    prompt: msgspec.Raw
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    logprobs: _Logprobs | None = None


class _Embedding(msgspec.Struct, forbid_unknown_fields=True):
    input: msgspec.Raw
    model: str | None = None
    encoding_format: str | None = None
    dimensions: _Limit | None = None
    user: str | None = None


_DECODERS: Final = {
    "chat/completions": msgspec.json.Decoder(_Chat).decode,
    "completions": msgspec.json.Decoder(_Completion).decode,
    "embeddings": msgspec.json.Decoder(_Embedding).decode,
}
_tokens: Final = msgspec.json.Decoder(list[_Token]).decode
_token_lists: Final = msgspec.json.Decoder(list[list[_Token]]).decode
_texts: Final = msgspec.json.Decoder(list[str]).decode

_OURS: Final = frozenset({"model", "stream", "stream_options", "n", "messages", "prompt", "input"})
"""Handled by the relay itself."""
_WITHOUT_EFFECT: Final = frozenset(
    {
        *("user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
        "prediction",  # affects only the speed
    }
)
"""Only meaningful on OpenAI's own platform; they do not change an answer."""
_NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "dimensions": (),
    "echo": (False,),
    "encoding_format": ("float",),
    "frequency_penalty": (0,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "stop": ([],),
    "suffix": ("",),
    "tool_choice": ("auto",),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
}
"""Values with the same effect as omitting the parameter."""
TOKENIZER_ARGUMENTS: Final = frozenset(
    {
        *("chat_template", "conversation", "add_generation_prompt", "continue_final_message", "tokenize"),
        *("tokenizer_kwargs", "processor_kwargs", "text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs"),
        *("common_kwargs", "load_audio_from_video", "images", "videos", "audio", "text", "text_pair", "text_target"),
        *("text_pair_target", "add_special_tokens", "is_split_into_words", "padding", "padding_side", "truncation"),
        *("max_length", "pad_to_multiple_of", "stride", "return_tensors", "return_dict", "return_length"),
        *("return_assistant_tokens_mask", "return_token_type_ids", "return_attention_mask", "return_offsets_mapping"),
        *("return_overflowing_tokens", "return_special_tokens_mask", "return_mm_token_type_ids", "verbose"),
        *("return_text_replacement_offsets", "sanitize_control_tokens"),
    }
)
"""Arguments of `apply_chat_template` in transformers, to which some engines pass `chat_template_kwargs` on as they are:
padding to a huge length would exhaust the machine's memory."""

SAMPLING: Final = frozenset({"max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed"})
TOOLS: Final = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
OPENAI: Final = SAMPLING | {
    *("presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs"),
    *("response_format", "reasoning_effort", "encoding_format"),
    *TOOLS,
}
"""Common to OpenAI-compatible servers."""
LLAMACPP: Final = OPENAI - {"reasoning_effort"} | {
    *("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "mirostat", "mirostat_tau", "mirostat_eta"),
    *("dynatemp_range", "dynatemp_exponent", "dry_multiplier", "dry_base", "dry_allowed_length"),
    *("dry_penalty_last_n", "xtc_probability", "xtc_threshold", "top_n_sigma", "ignore_eos"),
    *("grammar", "json_schema", "chat_template_kwargs", "add_generation_prompt", "reasoning_format"),
}
_GPU: Final = OPENAI | {
    *("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "skip_special_tokens"),
    *("chat_template_kwargs", "continue_final_message"),
}
VLLM: Final = _GPU | {
    *("echo", "dimensions", "bad_words", "allowed_token_ids", "include_stop_str_in_output"),
    *("spaces_between_special_tokens", "add_generation_prompt", "include_reasoning", "structured_outputs"),
}
SGLANG: Final = _GPU | {"echo", "regex", "ebnf", "no_stop_trim", "separate_reasoning", "stream_reasoning"}
TRANSFORMERS: Final = SAMPLING | {"tools", "chat_template_kwargs"}
"""It supports biases only for chats, and interprets OpenAI's penalties differently."""


def check(route: str, body: bytes) -> None:
    """Raises BadInferenceRequestError, which names the field, if no engine would accept the request."""
    asked: Any = decoded(_DECODERS[route], body)
    if route == "chat/completions":
        for message in asked.messages:
            _check_message(message)
        if asked.response_format is not None:
            _check_format(asked.response_format)
        if asked.chat_template_kwargs is not None:
            _check_variables(asked.chat_template_kwargs)
    else:
        field = "input" if route == "embeddings" else "prompt"
        _check_texts(getattr(asked, field), field)
    if route == "embeddings":
        if asked.encoding_format not in (None, "float", "base64"):
            raise BadInferenceRequestError("`encoding_format` must be `float` or `base64`.", "encoding_format")
        return
    if route == "completions" and asked.best_of is not None and asked.best_of != (asked.n or 1):
        raise BadInferenceRequestError("`best_of` must equal `n`: all answers are returned.", "best_of")
    if asked.grammar and asked.json_schema is not None:
        raise BadInferenceRequestError(
            "`json_schema` and `grammar` are mutually exclusive. Leave one out.", "json_schema"
        )


def supported(fields: Fields, supports: frozenset[str]) -> Fields:
    """The parameters to pass to an engine that supports those in `supports`.

    Raises BadInferenceRequestError for one that it would ignore. `fields` must have passed `check`.
    """
    passed: Fields = {}
    for name, raw in fields.items():
        if name in _OURS or name in supports:
            if bytes(raw).strip() != b"null":
                passed[name] = raw
        elif name not in _WITHOUT_EFFECT and name != "best_of" and not _is_neutral(name, msgspec.json.decode(raw)):
            raise BadInferenceRequestError(f"The engine of this model does not support `{name}`. Leave it out.", name)
    return passed


def _is_neutral(name: str, value: Any) -> bool:
    """Compares as in JSON, where `false` is not 0."""
    return value is None or any(
        value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in _NEUTRAL.get(name, ())
    )


def _check_message(message: _Message) -> None:
    content = message.content
    beside = (message.audio, message.images, message.image_url, message.video_url, message.files)
    if any(beside) or (isinstance(content, list) and not all(map(_is_text, content))):
        raise BadInferenceRequestError(_TEXT_ONLY, "messages")


def _is_text(part: dict[str, Any]) -> bool:
    kind = part.get("type")
    return kind in ("text", "refusal") and isinstance(part.get(kind), str) and part.keys() <= _TEXT_PART


def _check_format(wanted: _Format) -> None:
    if wanted.type == "json_schema" and wanted.json_schema is None:
        raise BadInferenceRequestError(
            "`response_format` has no schema. Put one into its `json_schema`.", "response_format"
        )


def _check_variables(variables: _Object) -> None:
    for name in variables:
        if name in TOKENIZER_ARGUMENTS:
            raise BadInferenceRequestError(
                f"`chat_template_kwargs` may only set variables of the chat template. Leave `{name}` out.",
                "chat_template_kwargs",
            )


def _check_texts(value: bytes, field: str) -> None:
    """Checks that all items of a list have the type that its first item suggests."""
    value = bytes(value).strip()
    if not value.startswith(b"["):
        return
    first = value[1:].lstrip()[:1]
    try:
        (_texts if first == b'"' else _token_lists if first == b"[" else _tokens)(value)
    except msgspec.DecodeError as error:
        raise BadInferenceRequestError(f"`{field}` must be a string, an array of strings, or tokens.", field) from error
