"""`modelshare tiers`."""

import typer

from modelshare.cli.formatting import size
from modelshare.cli.output import Json, print_json, print_table
from modelshare.client import Client

app = typer.Typer(add_completion=False)


@app.command()
def tiers(json: Json = False) -> None:
    """List the service tiers with their limits and prices. No key needed."""
    with Client() as client:
        found = list(client.tiers.list())
    if json:
        print_json(found)
        return
    rows = (
        (
            tier.slug,
            tier.accelerator or "your own",
            _limit(tier.requests_per_minute),
            _limit(tier.tokens_per_minute),
            str(tier.max_concurrent_requests),
            f"{tier.queue_seconds:g} s" if tier.queue_seconds else "none",
            str(tier.max_sequences_per_request),
            size(tier.max_model_bytes) or "no limit",
            f"{tier.request_timeout_seconds} s",
            "" if tier.price_per_million_tokens is None else f"{tier.price_per_million_tokens:g}",
            "may" if tier.may_evict else "never",
        )
        for tier in found
    )
    columns = (
        "TIER",
        "HARDWARE",
        "REQS/MIN",
        "TOKENS/MIN",
        "CONCURRENT",
        "QUEUE",
        "SEQS/REQUEST",
        "LARGEST MODEL",
        "TIMEOUT",
        "PRICE/M",
        "EVICTS",
    )
    print_table(columns, rows, empty="No tiers are configured.")


def _limit(count: int | None) -> str:
    return "no limit" if count is None else f"{count:,}"
