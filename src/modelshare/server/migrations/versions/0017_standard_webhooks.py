"""standard webhooks"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("webhooks", sa.Column("secret_number", sa.BigInteger(), nullable=False, server_default="1"))
    op.add_column("webhooks", sa.Column("old_secret_until", sa.BigInteger(), nullable=True))
    _rewrite_bodies(_new_body)


def downgrade() -> None:
    _rewrite_bodies(_old_body)
    op.drop_column("webhooks", "old_secret_until")
    op.drop_column("webhooks", "secret_number")


def _rewrite_bodies(rewritten: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """What still waits, or may be redelivered, is sent in the form that receivers of this version expect."""
    deliveries = sa.table("webhook_deliveries", sa.column("id", sa.Uuid()), sa.column("body", sa.Text()))
    connection = op.get_bind()
    last = None
    while True:
        page = sa.select(deliveries).order_by(deliveries.c.id).limit(1000)
        rows = connection.execute(page if last is None else page.where(deliveries.c.id > last)).all()
        if not rows:
            return
        last = rows[-1].id
        for row in rows:
            body = json.dumps(rewritten(json.loads(row.body)), separators=(",", ":"))
            connection.execute(deliveries.update().where(deliveries.c.id == row.id).values(body=body))


def _new_body(event: dict[str, Any]) -> dict[str, Any]:
    if "created" not in event:
        return event
    timestamp = datetime.fromtimestamp(event["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": event["type"], "timestamp": timestamp} | {key: event[key] for key in ("id", "project", "data")}


def _old_body(event: dict[str, Any]) -> dict[str, Any]:
    if "timestamp" not in event:
        return event
    created = int(datetime.fromisoformat(event["timestamp"]).timestamp())
    return {"id": event["id"], "type": event["type"], "created": created} | {
        key: event[key] for key in ("project", "data")
    }
