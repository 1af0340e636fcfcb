"""`modelshare bom`."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from modelshare.cli.error_messages import CommandError
from modelshare.cli.exit_codes import ExitCode
from modelshare.cli.output import print_message, print_text
from modelshare.cli.resolve_model import any_model, own_version
from modelshare.client import Client, InvalidRequestError, NotFoundError
from modelshare.wire.models import AnnexXii, BomFormat

app = typer.Typer(add_completion=False)


@app.command()
def bom(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL[@VERSION]", help="A model of yours, or OWNER/NAME in the catalog. Default: latest version."
        ),
    ],
    format: Annotated[  # noqa: A002 - the option
        BomFormat, typer.Option(help="CycloneDX 1.6 as JSON, or the EU AI Act's Annex XII as Markdown.")
    ] = BomFormat.CYCLONEDX,
    output: Annotated[Path | None, typer.Option(help="File to write to. Default: stdout.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print Annex XII as JSON too.")] = False,
) -> None:
    """Say what a model is made of: an AI bill of materials, or the EU AI Act's Annex XII with each gap named."""
    with Client() as client:
        document = _document(client, model, format)
    as_text = format is BomFormat.ANNEX_XII and not as_json
    text = _markdown(AnnexXii.model_validate(document)) if as_text else _json(document)
    if output is None:
        print_text(text)
    else:
        output.write_text(text + "\n", encoding="utf-8")
        print_message(f"Wrote {output}.")


def _document(client: Client, text: str, kind: BomFormat) -> dict[str, Any]:
    named, _, version = text.partition("@")
    with suppress(NotFoundError, InvalidRequestError):
        client.models.get(named)
        found, wanted = own_version(client, text)
        return client.models.bom(found.id, wanted, format=kind)
    if version:
        raise CommandError("Of models in the catalog only the latest version is described.", ExitCode.USAGE)
    return client.catalog.bom(any_model(client, named), format=kind)


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def _markdown(annex: AnnexXii) -> str:
    lines = [f"# {annex.model} {annex.version}: Annex XII of Regulation (EU) 2024/1689", "", annex.manifest_digest]
    for field in annex.fields:
        lines += ["", f"## {field.number} {field.title}", "", field.value or f"**Not known.** {field.gap}"]
    gaps = [field.number for field in annex.fields if field.gap]
    lines += ["", f"Gaps: {', '.join(gaps) or 'none'}."]
    return "\n".join(lines)
