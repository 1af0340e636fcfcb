"""`modelshare usage limits` and `modelshare usage budget`."""

from itertools import islice
from typing import Annotated

import typer

from modelshare.cli.formatting import when
from modelshare.cli.output import Json, print_json, print_message, print_table
from modelshare.client import Client
from modelshare.wire.base import PAGE_LIMIT_MAX
from modelshare.wire.keys import ProjectSettings
from modelshare.wire.limits import LimitKind, LimitState

NONE = "none"
_UNITS = {
    LimitKind.REQUESTS_PER_MINUTE: "requests/min",
    LimitKind.TOKENS_PER_MINUTE: "tokens/min",
    LimitKind.CONCURRENT_REQUESTS: "at once",
    LimitKind.MONTHLY_TOKENS: "tokens/month",
    LimitKind.MONTHLY_BUDGET: "cost/month",
}


def limits(
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows to show.")] = 100, json: Json = False
) -> None:
    """Show what is left now of the limits of endpoints and keys, and of the month's budgets."""
    with Client() as client:
        found = list(islice(client.usage.limits(limit=min(limit, PAGE_LIMIT_MAX)), limit))
    if json:
        print_json(found)
        return
    lines = (
        (
            *(each.subject, each.name, _UNITS[each.kind]),
            *(_amount(each, amount) for amount in (each.limit, each.used, each.remaining)),
            when(each.resets_at),
        )
        for each in found
    )
    print_table(
        ("OF", "NAME", "LIMIT OF", "LIMIT", "USED", "LEFT", "ALL BACK (UTC)"), lines, empty="There are no limits."
    )


def budget(
    amount: Annotated[
        str,
        typer.Argument(
            metavar="AMOUNT", help=f"In the currency of the tiers' prices, such as 49.50; `{NONE}`: no limit."
        ),
    ],
    json: Json = False,
) -> None:
    """Set what the project may spend in a month on tiers with a price."""
    changes = ProjectSettings.model_validate({"monthly_budget": None if amount == NONE else amount})
    with Client() as client:
        project = client.project.update(changes)
    if json:
        print_json(project)
    elif project.monthly_budget is None:
        print_message(f"{project.slug} has no budget: it may spend without limit.")
    else:
        print_message(f"{project.slug} may spend {project.monthly_budget:,.2f} a month.")


def _amount(state: LimitState, amount: float) -> str:
    return f"{amount:,.2f}" if state.kind is LimitKind.MONTHLY_BUDGET else f"{amount:,.0f}"
