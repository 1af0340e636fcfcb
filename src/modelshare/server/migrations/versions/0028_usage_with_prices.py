"""usage by tier and version with its cost, written once; keys that are suspended"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
_COUNTS = ("requests", "errors", "prompt_tokens", "completion_tokens", "estimated")
_COLUMNS = "day, endpoint_id, key_id, project_id, endpoint_slug, model_id"


def upgrade() -> None:
    op.add_column("keys", sa.Column("suspended_at", sa.BigInteger(), nullable=True))
    op.create_table(
        "usage_writers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_writers")),
    )
    # A table of its own: older processes count in `usage`, by its primary key.
    op.create_table(
        "metered_usage",
        sa.Column("day", sa.String(), nullable=False),
        sa.Column("endpoint_id", sa.Uuid(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("endpoint_slug", sa.String(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=True),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTS[:-1]),
        sa.Column("estimated", sa.BigInteger(), server_default="0", nullable=False),
        *(sa.Column(name, sa.String(), server_default="", nullable=False) for name in ("tier", "version")),
        *(
            sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)
            for name in ("cost_micros", "cost_rest")
        ),
        sa.PrimaryKeyConstraint("day", "endpoint_id", "key_id", "tier", "version", name=op.f("pk_metered_usage")),
    )
    op.create_index("ix_metered_usage_project_id_day", "metered_usage", ["project_id", "day"])
    op.create_index("ix_metered_usage_model_id_day", "metered_usage", ["model_id", "day"])
    columns = f"{_COLUMNS}, {', '.join(_COUNTS)}"
    op.execute(f"INSERT INTO metered_usage ({columns}) SELECT {columns} FROM usage")  # noqa: S608 - names of our own


def downgrade() -> None:
    columns = f"{_COLUMNS}, {', '.join(_COUNTS)}"
    sums = ", ".join(f"sum({name})" for name in _COUNTS)
    changed = ", ".join(f"{name} = excluded.{name}" for name in _COUNTS)
    op.execute(
        f"INSERT INTO usage ({columns}) SELECT {_COLUMNS}, {sums} FROM metered_usage WHERE true GROUP BY {_COLUMNS}"  # noqa: S608 - as above
        f" ON CONFLICT (day, endpoint_id, key_id) DO UPDATE SET {changed}"
    )
    op.drop_table("metered_usage")
    op.drop_table("usage_writers")
    op.drop_column("keys", "suspended_at")
