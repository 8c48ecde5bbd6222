"""What is kept, as tables. Times are UTC; ids are Discord's."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, DateTime, MetaData, String, Table

metadata = MetaData()

# Which model answers at a place: a channel or thread by its own id, a server by its id.
model_choices = Table(
    "model_choices",
    metadata,
    Column("kind", String(8), primary_key=True),
    Column("place_id", BigInteger, primary_key=True, autoincrement=False),
    Column("alias", String(32), nullable=False),
    Column("set_by", BigInteger, nullable=False),
    Column("set_at", DateTime, nullable=False),
)

# Which models a server offers; a server without a row offers all.
offered_models = Table(
    "offered_models",
    metadata,
    Column("server_id", BigInteger, primary_key=True, autoincrement=False),
    Column("alias", String(32), primary_key=True),
)
