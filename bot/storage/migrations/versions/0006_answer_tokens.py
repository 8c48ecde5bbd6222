"""The token ids of answers that can go on; there are none of older ones, which go on from their text."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("replies", sa.Column("tokens", sa.JSON, nullable=True))
