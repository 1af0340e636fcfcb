"""usage by tier and version with its cost, written once; keys that are suspended"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
_KEY = ["day", "endpoint_id", "key_id"]


def upgrade() -> None:
    op.add_column("keys", sa.Column("suspended_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "usage_writers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_writers")),
    )
    with op.batch_alter_table("usage", schema=None) as batch_op:
        for name in ("tier", "version"):
            batch_op.add_column(sa.Column(name, sa.String(), server_default="", nullable=False))
        for name in ("cost_micros", "cost_rest"):
            batch_op.add_column(sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
        batch_op.drop_constraint(batch_op.f("pk_usage"), type_="primary")
        batch_op.create_primary_key(batch_op.f("pk_usage"), [*_KEY, "tier", "version"])
        batch_op.drop_index("ix_usage_model_id")
        batch_op.create_index("ix_usage_model_id_day", ["model_id", "day"], unique=False)


def downgrade() -> None:
    named = "day, endpoint_id, key_id, project_id, endpoint_slug, model_id"
    counts = ("requests", "errors", "prompt_tokens", "completion_tokens", "estimated")
    sums = ", ".join(f"sum({name}) AS {name}" for name in counts)
    op.execute(f"CREATE TABLE usage_sums AS SELECT {named}, {sums} FROM usage GROUP BY {named}")  # noqa: S608 - names of our own
    op.execute("DELETE FROM usage")
    with op.batch_alter_table("usage", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("pk_usage"), type_="primary")
        for name in ("tier", "version", "cost_micros", "cost_rest"):
            batch_op.drop_column(name)
        batch_op.create_primary_key(batch_op.f("pk_usage"), _KEY)
        batch_op.drop_index("ix_usage_model_id_day")
        batch_op.create_index("ix_usage_model_id", ["model_id"], unique=False)
    columns = f"{named}, {', '.join(counts)}"
    op.execute(f"INSERT INTO usage ({columns}) SELECT {columns} FROM usage_sums")  # noqa: S608 - as above
    op.drop_table("usage_sums")
    op.drop_table("usage_writers")
    op.drop_column("keys", "suspended_at")
