"""The relational store's tables, for SQLite and PostgreSQL: how they are made, step by step, and how they are asked.

A store says in `meta` how many of STEPS it has taken; the rest is taken at the next start, in one transaction. A step
is never changed once it was released: a new one is appended.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import BigInteger, Column, Integer, Table, Text

from pipeline.campaigns.lease_tables import LEVEL_STEP
from pipeline.campaigns.lease_tables import STEP as LEASE_STEP
from pipeline.campaigns.metadata import METADATA
from pipeline.campaigns.slot_tables import STEP as SLOT_STEP

META = Table("meta", METADATA, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))
"""`schema`: steps taken. Its row is what writers wait for each other at."""

OBJECTS = Table(
    "objects",
    METADATA,
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
    Column("changed_by", Text, nullable=False),
    Column("parent_kind", Text),
    Column("parent_id", Text),
)
"""How each object stands. body: JSON."""

VERSIONS = Table(
    "versions",
    METADATA,
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("status", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
    Column("changed_by", Text, nullable=False),
)
"""Every version of every object, whole; the newest one, too."""

LABELS = Table(
    "labels",
    METADATA,
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""The labels of the objects as they stand, to be found by."""

AUDIT = Table(
    "audit",
    METADATA,
    Column("seq", BigInteger, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("whence", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("version", Integer, nullable=False),
)
"""Who changed what, when and from where. Rows are only ever added."""

OUTBOX = Table(
    "outbox",
    METADATA,
    Column("seq", BigInteger, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("version", Integer, nullable=False),
)
"""Versions that the topic is to be told of. A row is written with its version, and goes at the broker's word."""

SERIAL: Final = {
    "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",  # without the word a number would be given out again
    "postgresql": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
}

KEY: Final = {"sqlite": "TEXT", "postgresql": 'TEXT COLLATE "C"'}
"""Names, in the order of their bytes on both, whatever language the database speaks."""

STEPS: Final[Sequence[Sequence[str]]] = (
    (
        """CREATE TABLE objects (
            kind {key} NOT NULL, id {key} NOT NULL, version INTEGER NOT NULL CHECK (version >= 1), status TEXT NOT NULL,
            body TEXT NOT NULL, changed_ms BIGINT NOT NULL, changed_by TEXT NOT NULL,
            parent_kind {key}, parent_id {key},
            PRIMARY KEY (kind, id), FOREIGN KEY (parent_kind, parent_id) REFERENCES objects (kind, id)
        )""",
        "CREATE INDEX objects_by_parent ON objects (parent_kind, parent_id)",
        """CREATE TABLE versions (
            kind {key} NOT NULL, id {key} NOT NULL, version INTEGER NOT NULL, status TEXT NOT NULL, body TEXT NOT NULL,
            changed_ms BIGINT NOT NULL, changed_by TEXT NOT NULL,
            PRIMARY KEY (kind, id, version), FOREIGN KEY (kind, id) REFERENCES objects (kind, id)
        )""",
        """CREATE TABLE labels (
            kind {key} NOT NULL, id {key} NOT NULL, name {key} NOT NULL, value {key} NOT NULL,
            PRIMARY KEY (kind, id, name), FOREIGN KEY (kind, id) REFERENCES objects (kind, id)
        )""",
        "CREATE INDEX labels_by_name ON labels (kind, name, value)",
        """CREATE TABLE audit (
            seq {serial}, at_ms BIGINT NOT NULL, who TEXT NOT NULL, whence TEXT NOT NULL, what TEXT NOT NULL,
            kind {key} NOT NULL, id {key} NOT NULL, version INTEGER NOT NULL
        )""",
        "CREATE INDEX audit_by_object ON audit (kind, id, seq)",
        """CREATE TABLE outbox (
            seq {serial}, kind {key} NOT NULL, id {key} NOT NULL, version INTEGER NOT NULL
        )""",
    ),
    LEASE_STEP,
    LEVEL_STEP,
    SLOT_STEP,
)
