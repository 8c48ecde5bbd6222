"""Whether people see how a reply ended; of those that there are already, the ended ones were shown."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("replies", sa.Column("end_shown", sa.Boolean, nullable=False, server_default=sa.true()))
    op.execute("UPDATE replies SET end_shown = 0 WHERE reason IS NULL")
