import pytest

from modelshare.agent.errors import NoMemoryError
from modelshare.agent.ram_budget import RamBudget

GB = 10**9


def test_models_share_the_memory_as_long_as_it_lasts() -> None:
    memory = RamBudget(16 * GB)
    with memory.room_for(8 * GB), memory.room_for(8 * GB):
        pass


def test_a_model_that_does_not_fit_beside_another_is_refused_in_words() -> None:
    memory = RamBudget(16 * GB)
    with memory.room_for(9 * GB):
        with pytest.raises(
            NoMemoryError, match=r"needs 8\.0 GB .* use 9\.0 GB of its 16\.0 GB\. Use a smaller"
        ) as refused:
            memory.room_for(8 * GB).__enter__()
        assert str(refused.value).endswith(".")
        with memory.room_for(7 * GB):
            pass
    with memory.room_for(8 * GB):
        pass


def test_the_first_model_is_tried_whatever_it_takes() -> None:
    with RamBudget(GB).room_for(8 * GB):
        pass


def test_weights_that_lie_elsewhere_count_nothing() -> None:
    memory = RamBudget(GB)
    with memory.room_for(GB), memory.room_for(0):
        pass
