"""The tables of who counts caps (pipeline/core/slots.py), in the store that campaigns and leases of money are in."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import BigInteger, Column, Integer, Table, Text

from pipeline.campaigns.metadata import METADATA

SLOT_ROWS = Table(
    "cap_slots",
    METADATA,
    Column("slot", Integer, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("home", Text, nullable=False),
    Column("term", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("waits", Text, nullable=False),
)
"""One row for each slot, as `pipeline.core.slots.Row`. waits: `home:ended_ms,…`."""

PROCESSES = Table(
    "cap_processes",
    METADATA,
    Column("holder", Text, primary_key=True),
    Column("home", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
)
"""The delivery processes that live, as `pipeline.core.slots.Process`."""

NOTES = Table(
    "cap_notes",
    METADATA,
    Column("seq", BigInteger, primary_key=True),
    Column("slot", Integer, nullable=False),
    Column("written_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
)
"""What a slot's last holder knew and the log may not have yet, for its next one, who deletes it. body: JSON."""

STEP: Final[Sequence[str]] = (
    """CREATE TABLE cap_slots (
        slot INTEGER PRIMARY KEY, holder {key} NOT NULL, home {key} NOT NULL, term BIGINT NOT NULL,
        expires_ms BIGINT NOT NULL, waits TEXT NOT NULL
    )""",
    """CREATE TABLE cap_processes (
        holder {key} PRIMARY KEY, home {key} NOT NULL, address TEXT NOT NULL, expires_ms BIGINT NOT NULL
    )""",
    "CREATE TABLE cap_notes (seq {serial}, slot INTEGER NOT NULL, written_ms BIGINT NOT NULL, body TEXT NOT NULL)",
)
"""How they are made: a step of `pipeline.campaigns.tables.STEPS`."""
