"""What was asked and answered, and the messages that show it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "replies",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("asker_id", sa.BigInteger, nullable=False),
        sa.Column("channel_id", sa.BigInteger, nullable=False),
        sa.Column("server_id", sa.BigInteger),
        sa.Column("alias", sa.String(32), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("reason", sa.String(16)),
        sa.Column("numbers", sa.JSON, nullable=False),
        sa.Column("begun_at", sa.DateTime, nullable=False),
    )
    op.create_index("replies_by_age", "replies", ["begun_at"])
    op.create_table(
        "reply_messages",
        sa.Column("message_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("reply_id", sa.String(16), sa.ForeignKey("replies.id", ondelete="CASCADE"), nullable=False),
    )
    op.create_index("ix_reply_messages_reply_id", "reply_messages", ["reply_id"])
