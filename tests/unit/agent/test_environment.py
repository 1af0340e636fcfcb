"""Engines get what they need of the agent's environment, and what the operator names."""

from hypothesis import given
from hypothesis import strategies as st

from modelshare.agent.engines.child import engine_environment

NEEDED = {
    "PATH": "/bin",
    "LC_ALL": "C.UTF-8",
    "CUDA_VISIBLE_DEVICES": "0",
    "LD_LIBRARY_PATH": "/opt/cuda/lib64",
    "OMP_NUM_THREADS": "4",
    "HF_HOME": "/models",
    "PYTHONUNBUFFERED": "1",
}
NAMES = st.text(st.characters(categories=["Lu", "Nd"], include_characters="_"), min_size=1, max_size=30)


def test_what_engines_need_passes() -> None:
    assert engine_environment(NEEDED) == NEEDED


@given(st.dictionaries(NAMES.map(lambda name: f"X_{name}") | NAMES.map(lambda name: f"MODELSHARE_{name}"), st.text()))
def test_nothing_else_does(others: dict[str, str]) -> None:
    others.pop("MODELSHARE_ENGINE_ENV", None)
    assert engine_environment({**others, **NEEDED}) == NEEDED


def test_a_secret_in_a_family_of_variables_stays() -> None:
    assert engine_environment({"VLLM_API_KEY": "x", "HF_TOKEN": "x", "TORCH_HUB_TOKEN": "x", "SGL_PASSWORD": "x"}) == {}


def test_the_operator_names_more() -> None:
    environ = {"MODELSHARE_ENGINE_ENV": "LD_PRELOAD, MY_*,MODELSHARE_*", "LD_PRELOAD": "j.so", "MY_A": "1", "MYB": "2"}
    assert engine_environment({**environ, "MODELSHARE_API_KEY": "x", "MY_TOKEN": "3"}) == {
        "LD_PRELOAD": "j.so",
        "MY_A": "1",
        "MY_TOKEN": "3",
    }
