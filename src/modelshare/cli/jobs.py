"""`modelshare jobs`."""

from typing import Annotated

import typer

from modelshare.cli.formatting import when
from modelshare.cli.output import Json, one_line, print_json, print_message, print_table
from modelshare.client import Client

app = typer.Typer(add_completion=False)


@app.command()
def jobs(
    retry: Annotated[
        str | None, typer.Option(metavar="JOB", help="ID of a failed job to run again, as listed.")
    ] = None,
    json: Json = False,
) -> None:
    """List background jobs that failed permanently, or run one again. Needs a platform key."""
    with Client() as client:
        found = [client.platform.retry_job(retry)] if retry else list(client.platform.given_up_jobs())
    if json:
        print_json(found[0] if retry else found)
    elif retry:
        print_message(f"Running {found[0].kind} of {found[0].subject} again.")
    else:
        rows = ((job.kind, job.subject, when(job.given_up_at), one_line(job.error), job.id) for job in found)
        print_table(("KIND", "ABOUT", "FAILED (UTC)", "WHY", "ID"), rows, empty="No failed jobs.")
