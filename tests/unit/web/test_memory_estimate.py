"""How much memory a model needs: against models whose shape is known, and for all numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelshare.server.web import memory_estimate
from modelshare.server.web.memory_estimate import Fit, MemoryNeed

PARAMETERS = st.integers(min_value=1, max_value=10**13)
TOKENS = st.integers(min_value=1, max_value=1 << 22)
BYTES = st.integers(min_value=0, max_value=1 << 45)
ENGINES = st.frozensets(st.sampled_from(["llamacpp", "transformers", "vllm", "sglang", "external"]))


@pytest.mark.parametrize(
    ("parameters", "layers", "key_width"),
    [
        pytest.param(1_235_814_400, 16, 512, id="Llama 3.2 1B"),
        pytest.param(8_030_261_248, 32, 1024, id="Llama 3.1 8B"),
        pytest.param(70_553_706_496, 80, 1024, id="Llama 3.1 70B"),
        pytest.param(405_853_388_800, 126, 1024, id="Llama 3.1 405B"),
        pytest.param(7_248_023_552, 32, 1024, id="Mistral 7B v0.3"),
    ],
)
def test_the_cache_is_about_that_of_known_models(parameters: int, layers: int, key_width: int) -> None:
    known = 2 * layers * key_width * 2
    assert memory_estimate.cache_bytes(parameters, 1) == pytest.approx(known, rel=0.35)


@given(PARAMETERS, TOKENS, TOKENS)
def test_more_tokens_need_more(parameters: int, tokens: int, more: int) -> None:
    assert (
        memory_estimate.cache_bytes(parameters, tokens) < memory_estimate.cache_bytes(parameters, tokens + more)
        or parameters < 10**3
    )


@given(PARAMETERS, PARAMETERS, TOKENS)
def test_larger_models_need_more(parameters: int, more: int, tokens: int) -> None:
    assert memory_estimate.cache_bytes(parameters, tokens) <= memory_estimate.cache_bytes(parameters + more, tokens)


@given(BYTES, PARAMETERS | st.none(), TOKENS | st.none(), st.sampled_from(["chat", "completion", "embedding", None]))
def test_weights_and_cache_are_the_need(
    size: int, parameters: int | None, context: int | None, task: str | None
) -> None:
    found = memory_estimate.need(weight_bytes=size, parameters=parameters, context_length=context, task=task)
    assert found.total == size + (found.cache or 0) >= size
    assert found.comfortable >= found.total
    assert 1 <= found.context <= memory_estimate.USUAL_CONTEXT
    assert context is None or found.context <= context
    assert (found.cache is None) == (parameters is None and task != "embedding")


@given(BYTES, BYTES, BYTES, ENGINES, st.sampled_from(["gguf", "safetensors", "pickle", "odd", None]))
def test_more_memory_never_fits_worse(
    size: int, room: int, more: int, engines: frozenset[str], format_: str | None
) -> None:
    order = [Fit.TOO_BIG, Fit.TIGHT, Fit.FITS]
    needed = MemoryNeed(size, None, 1)
    before, after = (memory_estimate.fit(needed, each, engines, format_) for each in (room, room + more))
    assert (before is Fit.NO_ENGINE) == (after is Fit.NO_ENGINE)
    assert before is Fit.NO_ENGINE or order.index(before) <= order.index(after)


def test_a_fit_has_its_bounds() -> None:
    needed = MemoryNeed(100, 20, 1)
    assert memory_estimate.fit(needed, 119, ["llamacpp"], "gguf") is Fit.TOO_BIG
    assert memory_estimate.fit(needed, 120, ["llamacpp"], "gguf") is Fit.TIGHT
    assert memory_estimate.fit(needed, 140, ["llamacpp"], "gguf") is Fit.FITS
    assert memory_estimate.fit(needed, None, ["llamacpp"], "gguf") is Fit.UNKNOWN
    assert memory_estimate.fit(needed, 140, ["transformers"], "gguf") is Fit.NO_ENGINE


def test_only_the_files_that_are_loaded_count() -> None:
    files = [{"path": "a.gguf", "size": 7}, {"path": "b.gguf", "size": 5}, {"path": "README.md", "size": 3}]
    assert memory_estimate.weight_bytes({"files": files, "facts": {"weights": ["b.gguf"]}}, 15) == 5
    assert memory_estimate.weight_bytes({"files": files}, 15) == 15
