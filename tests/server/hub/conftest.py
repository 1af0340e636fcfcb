"""What clients of other forms are answered: on SQLite, but for what asks most of the database."""

import pytest

ON_BOTH_DATABASES = pytest.mark.parametrize("lend", ["sqlite", "postgres"], indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = metafunc.definition.iter_markers("parametrize")
    if "lend" in metafunc.fixturenames and not any(mark.args[0] == "lend" for mark in marks):
        metafunc.definition.add_marker(pytest.mark.parametrize("lend", ["sqlite"], indirect=True))
