import inspect

import modelshare.client as sdk
from modelshare.client import errors


def test_all_names_exactly_the_public_names() -> None:
    public = {name for name, value in vars(sdk).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert set(sdk.__all__) == public
    assert sorted(sdk.__all__) == sdk.__all__


def test_every_exception_can_be_caught_by_name() -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.ModelshareError)
    }
    assert kinds <= set(sdk.__all__)
