"""`modelshare chat`."""

import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

from modelshare.cli.error_messages import describe
from modelshare.cli.output import Json, print_json, say
from modelshare.client import Client, ModelshareError
from modelshare.client.chat import Message, stream_chat
from modelshare.wire.text import visible

app = typer.Typer(add_completion=False)


@app.command()
def chat(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="Slug of the endpoint, or a base URL.")],
    text: Annotated[str | None, typer.Argument(help="Message to send. Without it, starts a conversation.")] = None,
    system: Annotated[str | None, typer.Option(help="System prompt for the model.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum number of tokens in the answer.")] = None,
    json: Json = False,
) -> None:
    """Chat with an endpoint: one message and its answer, or a conversation."""
    messages: list[Message] = [] if system is None else [Message("system", system)]
    if text is None and not sys.stdin.isatty():
        text = sys.stdin.read()
    with Client(_origin(endpoint)) as client:
        base_url = endpoint.rstrip("/") if "://" in endpoint else client.endpoints.get(endpoint).base_url
        if text is None:
            _converse(client, base_url, messages, max_tokens)
            return
        answer = _answer(client, base_url, [*messages, Message("user", text)], max_tokens, quiet=json)
    if json:
        print_json({"endpoint": endpoint, "content": answer})


def _origin(endpoint: str) -> str | None:
    """The platform of a base URL, which determines the key to send; None for a slug."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else None


def _converse(client: Client, base_url: str, messages: list[Message], max_tokens: int | None) -> None:
    say("Type a message. Press Ctrl-D to end.")
    while True:
        try:
            text = input("> ")
        except EOFError:
            say("")
            return
        if not text.strip():
            continue
        asked = [*messages, Message("user", text)]
        try:
            messages = [*asked, Message("assistant", _answer(client, base_url, asked, max_tokens, quiet=False))]
        except ModelshareError as error:
            say(describe(error).message)


def _answer(client: Client, base_url: str, messages: list[Message], max_tokens: int | None, *, quiet: bool) -> str:
    pieces = []
    for piece in stream_chat(client, base_url, messages, max_tokens=max_tokens):
        pieces.append(piece)
        if not quiet:
            typer.echo(visible(piece, keep="\n\t"), nl=False)
    if not quiet:
        typer.echo()
    return "".join(pieces)
