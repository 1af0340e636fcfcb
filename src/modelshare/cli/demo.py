"""`modelshare demo`."""

import typer

from modelshare.cli.output import Json
from modelshare.cli.serve import DataDir, Host, Port, run

app = typer.Typer(add_completion=False)


@app.command()
def demo(host: Host = None, port: Port = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Run the platform with two projects and a tiny model, to try it out. The same as `modelshare serve --demo`."""
    run(host=host, port=port, data_dir=data_dir, demo=True, json=json)
