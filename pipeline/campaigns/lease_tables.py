"""The tables of leases, in the same store as the campaigns: what delivery processes hold, and of which accounts."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import BigInteger, Column, Integer, Table, Text

from pipeline.campaigns.metadata import METADATA

ACCOUNTS = Table(
    "lease_accounts",
    METADATA,
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("total_micros", BigInteger),
    Column("daily_micros", BigInteger),
    Column("position", Text, nullable=False),
    Column("short_ms", BigInteger, nullable=False),
)
"""Lines and campaigns that money was asked for, and skus that pieces were: limits of the newest version that was known.

A sku's limit is its level, of which the version is the time in ms; its unit is a piece.

position: up to where the spend state has to be known by who grants, since leases were closed by it; "" = no matter.
short_ms: when somebody last got nothing, by that one's clock.
"""

LEASES = Table(
    "leases",
    METADATA,
    Column("lease_id", Text, primary_key=True),
    Column("line_id", Text, nullable=False),
    Column("line_day", Text, nullable=False),
    Column("campaign_id", Text, nullable=False),
    Column("campaign_day", Text, nullable=False),
    Column("pays_for", Text, nullable=False),
    Column("granted_micros", BigInteger, nullable=False),
    Column("starts_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("is_final", Integer, nullable=False),
)
"""All that are not closed, in the order of `pipeline.core.lease.Lease`; a closed one's row is deleted."""

STEP: Final[Sequence[str]] = (
    """CREATE TABLE lease_accounts (
        kind {key} NOT NULL, id {key} NOT NULL, version INTEGER NOT NULL, total_micros BIGINT, daily_micros BIGINT,
        position TEXT NOT NULL, short_ms BIGINT NOT NULL, PRIMARY KEY (kind, id)
    )""",
    """CREATE TABLE leases (
        lease_id {key} PRIMARY KEY, line_id {key} NOT NULL, line_day TEXT NOT NULL, campaign_id {key} NOT NULL,
        campaign_day TEXT NOT NULL, pays_for TEXT NOT NULL, granted_micros BIGINT NOT NULL, starts_ms BIGINT NOT NULL,
        expires_ms BIGINT NOT NULL, is_final INTEGER NOT NULL
    )""",
    "CREATE INDEX leases_by_line ON leases (line_id)",
    "CREATE INDEX leases_by_campaign ON leases (campaign_id)",
)
"""How they are made: a step of `pipeline.campaigns.tables.STEPS`."""

LEVEL_STEP: Final[Sequence[str]] = (
    "ALTER TABLE lease_accounts ADD COLUMN newest BIGINT NOT NULL DEFAULT 0",
    "UPDATE lease_accounts SET newest = version",
    "ALTER TABLE lease_accounts DROP COLUMN version",
    "ALTER TABLE lease_accounts RENAME COLUMN newest TO version",
)
"""Another step: a version that is a time in ms. SQLite changes no column's type, nor puts it back in its place."""
