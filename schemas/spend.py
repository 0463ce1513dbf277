"""What the spend stage keeps (the topic `spend`): money by line and day, open reservations, leases, stock, held pieces.

All amounts are integers that only add: partitions merge in any order. Entries by key, see `pipeline/core/spend.py`.
"""

from msgspec import Struct, field


class Sum(Struct, array_like=True):
    """So many, and what they come to."""

    count: int = 0
    micros: int = 0


class Money(Struct, array_like=True):
    """Books of money: reserved = settled + released + open, at every moment.

    bots, stale: parts of what was released: as a bot's, and because the decision's record came too late to count.
    late: what was paid for came after the release: not billed, and in none of the others.
    """

    reserved: Sum = field(default_factory=Sum)
    settled: Sum = field(default_factory=Sum)
    released: Sum = field(default_factory=Sum)
    open: Sum = field(default_factory=Sum)
    bots: Sum = field(default_factory=Sum)
    stale: Sum = field(default_factory=Sum)
    late: Sum = field(default_factory=Sum)


class Reservation(Struct, array_like=True):
    """One choice's money while it is open. day: `budget day`, or `budget day/campaign's day` where those differ.

    is_clicked: a click came, by which an action's reservation stays open for longer.
    """

    line_id: str
    campaign_id: str
    day: str
    pays_for: str
    price_micros: int
    decided_ms: int
    is_clicked: bool = False


class Leased(Struct, array_like=True):
    """What was reserved under a lease. decided_ms: the latest decision under it."""

    reserved: Sum = field(default_factory=Sum)
    decided_ms: int = 0


class StockLevel(Struct, array_like=True):
    """How many pieces of a sku a site has said to have left, and when."""

    site: str
    sku: str
    level: int
    event_time_ms: int


class Hold(Struct, array_like=True):
    """A piece of a sku that a choice keeps for whom it was shown to. lease_id: "" where nobody had told a level."""

    site: str
    sku: str
    lease_id: str = ""


class Sale(Struct, array_like=True):
    """A visitor has bought a sku of which a decision of his held a piece."""

    decision_id: str
    action_id: str
    sku: str
    event_time_ms: int


class Held(Struct, array_like=True):
    """A piece while it is held: to ends_ms, included."""

    site: str
    sku: str
    ends_ms: int


class Sold(Struct, array_like=True):
    """A held piece that was bought: the level may not know of it yet. ends_ms: until when it would have been held."""

    site: str
    sku: str
    ends_ms: int
    event_time_ms: int


class Pieces(Struct, array_like=True):
    """The books of a sku's pieces: held = bought + ended + bots + open, at every moment."""

    site: str
    sku: str
    held: int = 0
    bought: int = 0
    ended: int = 0
    bots: int = 0
    open: int = 0


class SpendFixed(Struct, array_like=True):
    """The small per-partition part: the clock (the latest block time), and the books of all lines together."""

    block_time_ms: int = 0
    total: Money = field(default_factory=Money)
