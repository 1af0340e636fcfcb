"""who sees an entry

A term that says so began as one that a word makes: `ublic` made a targeted model public. Now none does.
"""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Of a public entry it is the last term; of a targeted one, the rest from `_targeted` on."""
    op.execute("""
        UPDATE catalog_entries SET terms = substr(terms, 1, length(terms) - 8) || '__public '
        WHERE substr(terms, length(terms) - 8) = ' _public '
    """)
    op.execute("""
        UPDATE catalog_entries SET terms = replace(replace(terms, ' _targeted ', ' __targeted '), ' _proj_', ' __proj_')
        WHERE terms LIKE '% _targeted %'
    """)


def downgrade() -> None:
    op.execute("""
        UPDATE catalog_entries SET terms = replace(
            replace(replace(terms, ' __public ', ' _public '), ' __targeted ', ' _targeted '), ' __proj_', ' _proj_'
        )
    """)
