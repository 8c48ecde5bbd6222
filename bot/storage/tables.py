"""What is kept, as tables. Times are UTC; ids are Discord's."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

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

# What was asked and answered, for the buttons under a reply. `reason` is empty while the model is at it; `end_shown` is
# false until people see how it ended. `tokens` are the ids of an answer that can go on, with their vocabulary.
replies = Table(
    "replies",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("asker_id", BigInteger, nullable=False),
    Column("channel_id", BigInteger, nullable=False),
    Column("server_id", BigInteger),
    Column("alias", String(32), nullable=False),
    Column("request", JSON, nullable=False),
    Column("answer", Text, nullable=False),
    Column("reason", String(16)),
    Column("numbers", JSON, nullable=False),
    Column("begun_at", DateTime, nullable=False),
    Column("end_shown", Boolean, nullable=False),
    Column("tokens", JSON(none_as_null=True)),
    Index("replies_by_age", "begun_at"),
)

# The messages of a reply, in the order of its pages.
reply_messages = Table(
    "reply_messages",
    metadata,
    Column("message_id", BigInteger, primary_key=True, autoincrement=False),
    Column("reply_id", ForeignKey("replies.id", ondelete="CASCADE"), nullable=False, index=True),
)

# What moderators decided: who may ask in their server, and where. `alias` is the model a rule is for, empty for all.
access_rules = Table(
    "access_rules",
    metadata,
    Column("server_id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(8), primary_key=True),
    Column("subject_id", BigInteger, primary_key=True, autoincrement=False),
    Column("alias", String(32), primary_key=True),
    Column("allowed", Boolean, nullable=False),
    Column("set_by", BigInteger, nullable=False),
    Column("set_at", DateTime, nullable=False),
)

# How much moderators let people have in their server. Empty says nothing, 0 is no limit.
access_quotas = Table(
    "access_quotas",
    metadata,
    Column("server_id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(8), primary_key=True),
    Column("subject_id", BigInteger, primary_key=True, autoincrement=False),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_day", BigInteger),
    Column("gpu_s_per_day", BigInteger),
    Column("set_by", BigInteger, nullable=False),
    Column("set_at", DateTime, nullable=False),
)

# The servers whose moderators have switched the bot off.
servers_off = Table(
    "servers_off",
    metadata,
    Column("server_id", BigInteger, primary_key=True, autoincrement=False),
    Column("set_by", BigInteger, nullable=False),
    Column("set_at", DateTime, nullable=False),
)

# What was used, added up in short spans of time: by a person, by a person in a server, by a server.
# `span_s` is when a span begins, in seconds since 1970; `server_id` is 0 where a person is meant everywhere.
usage_spans = Table(
    "usage_spans",
    metadata,
    Column("kind", String(8), primary_key=True),
    Column("subject_id", BigInteger, primary_key=True, autoincrement=False),
    Column("server_id", BigInteger, primary_key=True, autoincrement=False),
    Column("span_s", Integer, primary_key=True, autoincrement=False),
    Column("tokens", BigInteger, nullable=False),
    Column("gpu_s", Float, nullable=False),
    Index("usage_by_age", "span_s"),
)

# Where the operators' panel stands: one row at most.
panels = Table(
    "panels",
    metadata,
    Column("message_id", BigInteger, primary_key=True, autoincrement=False),
    Column("channel_id", BigInteger, nullable=False),
)
