"""The option of `modelshare agent` for a Ray cluster."""

from pathlib import Path
from typing import Annotated

import typer

from modelshare.agent.direct.cli_options import parsed
from modelshare.agent.ray_serve.settings import RaySettings, read_settings

RaySettingsOption = Annotated[
    RaySettings | None,
    typer.Option(
        parser=parsed(lambda path: read_settings(Path(path))),
        metavar="FILE",
        help="TOML file for --engine ray: replicas, what each needs, and where the cluster is (docs/ray.md).",
    ),
]
