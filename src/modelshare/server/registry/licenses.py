"""What a licence's name stands for: SPDX expressions, and the licences of models, which SPDX does not list."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Final

from license_expression import ExpressionError, Licensing, get_spdx_licensing

_MAX_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class LicenseFacts:
    """`restricts_use`: whether it says what the model may not be used for; None where that is not known."""

    spdx: str | None
    """SPDX expression."""
    name: str
    url: str | None = None
    restricts_use: bool | None = None


def _llama(version: str, path: str) -> LicenseFacts:
    name = f"Llama {version} Community License"
    return LicenseFacts(None, name, f"https://www.llama.com/{path}/license/", restricts_use=True)


_MODEL_LICENSES: Final[Mapping[str, LicenseFacts]] = MappingProxyType(
    {
        "llama2": LicenseFacts(
            None, "Llama 2 Community License", "https://ai.meta.com/llama/license/", restricts_use=True
        ),
        "llama3": _llama("3", "llama3"),
        "llama3.1": _llama("3.1", "llama3_1"),
        "llama3.2": _llama("3.2", "llama3_2"),
        "llama3.3": _llama("3.3", "llama3_3"),
        "llama4": _llama("4", "llama4"),
        "gemma": LicenseFacts(None, "Gemma Terms of Use", "https://ai.google.dev/gemma/terms", restricts_use=True),
        "openrail": LicenseFacts(None, "Open RAIL", "https://www.licenses.ai/ai-licenses", restricts_use=True),
        "openrail++": LicenseFacts(
            None,
            "CreativeML Open RAIL++-M",
            "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
            restricts_use=True,
        ),
        "creativeml-openrail-m": LicenseFacts(
            None,
            "CreativeML OpenRAIL-M",
            "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
            restricts_use=True,
        ),
        "bigscience-openrail-m": LicenseFacts(
            None,
            "BigScience OpenRAIL-M",
            "https://bigscience.huggingface.co/blog/bigscience-openrail-m",
            restricts_use=True,
        ),
        "bigscience-bloom-rail-1.0": LicenseFacts(
            None,
            "BigScience BLOOM RAIL 1.0",
            "https://huggingface.co/spaces/bigscience/license",
            restricts_use=True,
        ),
        "bigcode-openrail-m": LicenseFacts(
            None,
            "BigCode OpenRAIL-M",
            "https://huggingface.co/spaces/bigcode/bigcode-model-license-agreement",
            restricts_use=True,
        ),
        "deepfloyd-if-license": LicenseFacts(
            None,
            "DeepFloyd IF License",
            "https://github.com/deep-floyd/IF/blob/develop/LICENSE-MODEL",
            restricts_use=True,
        ),
        "nvidia-open-model-license": LicenseFacts(
            None,
            "NVIDIA Open Model License",
            "https://www.nvidia.com/en-us/agreements/enterprise-software/nvidia-open-model-license/",
            restricts_use=True,
        ),
        "apple-amlr": LicenseFacts(
            None,
            "Apple Machine Learning Research Model License",
            "https://huggingface.co/apple/OpenELM/blob/main/LICENSE",
            restricts_use=True,
        ),
        "fair-noncommercial-research-license": LicenseFacts(
            None,
            "FAIR Noncommercial Research License",
            "https://huggingface.co/facebook/fair-noncommercial-research-license",
            restricts_use=True,
        ),
    }
)
"""By the identifiers of the Hugging Face Hub, or the usual `license_name` of a card."""
_NOT_LICENSES: Final = frozenset({"other", "unknown", "unlicense-unknown", "none"})


def describe(stated: str | None) -> LicenseFacts | None:
    """None where no licence is stated. One that is not known keeps the name that is stated, and nothing else."""
    name = (stated or "").strip()[:_MAX_NAME]
    if not name or name.lower() in _NOT_LICENSES:
        return None
    if (known := _MODEL_LICENSES.get(name.lower().replace(" ", "-"))) is not None:
        return known
    expression = spdx_expression(name)
    if expression is None:
        return LicenseFacts(None, name)
    is_one = " " not in expression
    return LicenseFacts(
        expression,
        expression,
        f"https://spdx.org/licenses/{expression}.html" if is_one else None,
        restricts_use="-NC" in expression,
    )


def spdx_expression(text: str) -> str | None:
    """The text as an SPDX expression of listed licences, in SPDX's own spelling."""
    try:
        found = _spdx().validate(text)
    except (ExpressionError, ValueError, RecursionError, AttributeError, TypeError, IndexError):
        return None  # the parser fails in odd ways on expressions that end too early
    normalized: str | None = found.normalized_expression
    return normalized if not found.errors else None


@cache
def _spdx() -> Licensing:
    return get_spdx_licensing()
