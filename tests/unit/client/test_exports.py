import inspect

import modelshare.client as sdk
from modelshare.client import errors


def test_all_names_exactly_the_public_names() -> None:
    here = {name for name, value in vars(sdk).items() if getattr(value, "__module__", "").startswith("modelshare")}
    assert set(sdk.__all__) == {name for name in here if not name.startswith("_")}
    assert sorted(sdk.__all__) == sdk.__all__


def test_every_name_is_there_and_known_by_it() -> None:
    assert [name for name in sdk.__all__ if getattr(sdk, name).__name__ != name] == []


def test_every_exception_can_be_caught_by_name() -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.ModelshareError)
    }
    assert kinds <= set(sdk.__all__)
