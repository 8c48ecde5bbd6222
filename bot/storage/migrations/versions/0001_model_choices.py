"""Which model answers where, and what a server offers."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "model_choices",
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("place_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("alias", sa.String(32), nullable=False),
        sa.Column("set_by", sa.BigInteger, nullable=False),
        sa.Column("set_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "offered_models",
        sa.Column("server_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("alias", sa.String(32), primary_key=True),
    )
