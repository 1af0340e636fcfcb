"""`modelshare jobs`."""

from typing import Annotated

import typer

from modelshare.cli.formatting import when
from modelshare.cli.output import Json, one_line, print_json, print_table, say
from modelshare.client import Client

app = typer.Typer(add_completion=False)


@app.command()
def jobs(
    retry: Annotated[
        str | None, typer.Option(metavar="JOB", help="Run this one once more, by the id that the list has.")
    ] = None,
    json: Json = False,
) -> None:
    """List jobs in the background that were given up, or run one once more. Needs a platform key."""
    with Client() as client:
        found = [client.platform.retry_job(retry)] if retry else list(client.platform.given_up_jobs())
    if json:
        print_json(found[0] if retry else found)
    elif retry:
        say(f"{found[0].kind} of {found[0].subject} runs once more.")
    else:
        rows = ((job.kind, job.subject, when(job.given_up_at), one_line(job.error), job.id) for job in found)
        print_table(("KIND", "ABOUT", "GIVEN UP (UTC)", "WHY", "ID"), rows, empty="No job was given up.")
