"""Options of the commands that publish a version."""

from typing import Annotated, TypeAlias

import typer

VersionOption: TypeAlias = Annotated[
    str | None, typer.Option(help="For example 1.2.0. Default: the next patch version.")
]
LatestOption: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--latest/--no-latest",
        help="Whether this version becomes the latest. Default: only if it is higher and not a pre-release.",
    ),
]
NotesOption: TypeAlias = Annotated[str | None, typer.Option(help="Notes for users of this version.")]
FileOption: TypeAlias = Annotated[
    str | None, typer.Option(help="Which of several models there to describe and run, such as Q4/model.gguf.")
]
ExcludeOption: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Leave these files out, such as '*.onnx' or 'logs/'.")
]
