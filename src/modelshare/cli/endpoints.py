"""`modelshare endpoints …`."""

from typing import Annotated

import typer

from modelshare.cli.confirm import Yes, confirm
from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.formatting import size, when
from modelshare.cli.output import Json, one_line, print_json, print_message, print_record, print_table, print_text
from modelshare.cli.requests import request
from modelshare.cli.resolve_model import any_model
from modelshare.client import Client
from modelshare.wire.endpoints import Endpoint, EndpointCreate, EndpointPatch, EndpointQueue, Explanation, PrefixCache

app = typer.Typer(add_completion=False)
Slug = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Slug of the endpoint.")]


@app.command("list")
def list_endpoints(json: Json = False) -> None:
    """List the project's endpoints."""
    with Client() as client:
        endpoints = list(client.endpoints.list())
    if json:
        print_json(endpoints)
        return
    rows = (
        (item.slug, item.model_name or "(deleted)", item.resolved_version or item.version, item.tier, _state(item))
        for item in endpoints
    )
    empty = "No endpoints yet. Create one: `modelshare deploy MODEL --tier self_hosted --slug NAME`."
    print_table(("ENDPOINT", "MODEL", "VERSION", "TIER", "STATUS"), rows, empty=empty)
    for item in endpoints:
        _say_recall(item)


@app.command()
def show(endpoint: Slug, json: Json = False) -> None:
    """Show an endpoint: base URL, status with its reason, progress."""
    with Client() as client:
        found = client.endpoints.get(endpoint)
    _print(found, json=json)


@app.command()
def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model ID, name of your own model, or OWNER/NAME.")],
    tier: Annotated[str, typer.Option(help="A tier from `modelshare tiers`.")],
    slug: Annotated[str, typer.Option(help="Name of the endpoint in its URL.")] = "endpoint",
    version: Annotated[str, typer.Option(help="`latest`, or a fixed version.")] = "latest",
    file: Annotated[str | None, typer.Option(help="Model file to serve.")] = None,
    json: Json = False,
) -> None:
    """Show whether a model can be deployed on a tier and, if not, why and what to do. Exits with 1 if not."""
    with Client() as client:
        answer = client.endpoints.explain(
            request(EndpointCreate, model=any_model(client, model), tier=tier, slug=slug, version=version, file=file)
        )
    if json:
        print_json(answer)
    else:
        _print_explanation(answer)
    if not answer.possible:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def update(
    endpoint: Slug,
    version: Annotated[str | None, typer.Option(help="`latest`, or a fixed version.")] = None,
    tier: Annotated[str | None, typer.Option(help="A tier from `modelshare tiers`.")] = None,
    file: Annotated[
        str | None, typer.Option(help="Model file to serve, one of those that `modelshare models show` lists.")
    ] = None,
    own_file: Annotated[bool, typer.Option("--own-file", help="Serve the version's default file again.")] = False,
    json: Json = False,
) -> None:
    """Change an endpoint's version, file or tier. The old one keeps serving until an agent has the new one ready."""
    if file is not None and own_file:
        raise CommandError("Use --file or --own-file, not both.", ExitCode.USAGE)
    changes = request(EndpointPatch, version=version, tier=tier, file=file)
    if own_file:
        changes = changes.model_copy(update={"file": None})
    if not changes.model_fields_set:
        raise CommandError("Nothing to change. Give at least one option, such as --file.", ExitCode.USAGE)
    with Client() as client:
        found = client.endpoints.update(endpoint, changes)
    _print(found, json=json)


@app.command()
def deactivate(endpoint: Slug, json: Json = False) -> None:
    """Deactivate an endpoint. Its agents unload the model."""
    with Client() as client:
        found = client.endpoints.deactivate(endpoint)
    _print(found, json=json)


@app.command()
def activate(endpoint: Slug, json: Json = False) -> None:
    """Activate an endpoint again. The rules for new endpoints apply."""
    with Client() as client:
        found = client.endpoints.activate(endpoint)
    _print(found, json=json)


@app.command()
def delete(endpoint: Slug, yes: Yes = False, json: Json = False) -> None:
    """Delete an endpoint. Its URL stops working immediately."""
    confirm(f"Delete the endpoint {endpoint}?", yes=yes)
    with Client() as client:
        client.endpoints.delete(endpoint)
    if json:
        print_json({"slug": endpoint, "deleted": True})
    else:
        print_message(f"Deleted {endpoint}.")


@app.command("hf-token")
def hf_token(
    endpoint: Slug,
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke the endpoint's token instead.")] = False,
    json: Json = False,
) -> None:
    """Create a token that lets Hugging Face clients download what the endpoint runs. An earlier one ends."""
    with Client() as client:
        if revoke:
            client.endpoints.revoke_hf_token(endpoint)
            if json:
                print_json({"slug": endpoint, "revoked": True})
            else:
                print_message(f"Revoked the token of {endpoint}.")
            return
        made = client.endpoints.make_hf_token(endpoint)
    if json:
        print_json(made)
    else:
        print_message("Shown only once. Set HF_TOKEN to it, and HF_ENDPOINT to the platform's URL followed by /hf.")
        print_text(made.token)


def _print(endpoint: Endpoint, *, json: bool) -> None:
    if json:
        print_json(endpoint)
        return
    _say_recall(endpoint)
    print_record(
        (
            ("endpoint", endpoint.slug),
            ("base URL", endpoint.base_url),
            ("status", _state(endpoint)),
            ("reason", endpoint.status_reason),
            ("model", endpoint.model_name),
            ("model id", endpoint.model),
            ("version", endpoint.version),
            ("serving", endpoint.resolved_version),
            ("note", endpoint.version_note),
            ("file", endpoint.file),
            ("tier", endpoint.tier),
            ("prefix cache", _hits(endpoint.prefix_cache)),
            ("queue", _waiting(endpoint.queue)),
            ("created", when(endpoint.created_at)),
        )
    )


def _say_recall(endpoint: Endpoint) -> None:
    notice = endpoint.recall
    if notice is None:
        return
    stops = f"it stops at {when(notice.deadline)} UTC" if notice.stopped_at is None else "it has stopped"
    model, reason = endpoint.model_name or "its model", one_line(notice.reason)
    print_message(f"Warning: {endpoint.slug}: {model} was recalled by its owner; {stops}. {reason}")


def _hits(cache: PrefixCache | None) -> str | None:
    if cache is None:
        return None
    rate = cache.hits / cache.requests
    return f"{rate:.0%} of {cache.requests} requests that continued a conversation went to the machine that knows it"


def _waiting(queue: EndpointQueue | None) -> str | None:
    if queue is None:
        return None
    if not queue.waiting:
        return "no request waits"
    wait = "1 request waits" if queue.waiting == 1 else f"{queue.waiting} requests wait"
    return f"{wait}, the longest for {queue.longest_seconds:.1f} s"


def _state(endpoint: Endpoint) -> str:
    progress = endpoint.progress
    if progress is None:
        return endpoint.status
    if progress.bytes_total and progress.bytes_done < progress.bytes_total:
        return f"{endpoint.status} ({progress.phase} {size(progress.bytes_done)} of {size(progress.bytes_total)})"
    return f"{endpoint.status} ({progress.phase})"


def _print_explanation(answer: Explanation) -> None:
    print_text("Possible." if answer.possible else "Not possible:")
    for reason in answer.reasons:
        print_text(f"- {reason.message} {reason.fix}")
    for note in answer.notes:
        print_text(f"Note: {note}")
