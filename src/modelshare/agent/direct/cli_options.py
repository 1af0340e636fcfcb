"""Options that `modelshare agent` and `modelshare hold` share."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from modelshare.agent.direct.options import Address

T = TypeVar("T")


def parsed(parse: Callable[[str], T]) -> Callable[[str], T]:
    """As a parser of an option: a ValueError is a mistake in the command line."""

    def parser(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return parser


ListenOption = Annotated[
    Address | None,
    typer.Option(
        parser=parsed(Address.parse),
        metavar="ADDRESS[:PORT]",
        help="Listen here instead, if others reach this machine at an address that is not its own.",
    ),
]
