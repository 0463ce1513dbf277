"""The state topics: one record of changes for a partition's blocks of a round, from which a new owner rebuilds it.

A record also carries a slice of the unchanged entries (a rolling sweep), so that the log never needs a pause for a full
snapshot and a reader never needs more than the last two sweeps: it starts at `begin`.
"""

from typing import Literal

from msgspec import Struct

HERE = -1


class StateRecord(Struct, array_like=True):
    """Changes of one partition's state by one block.

    kind: "fence" (a new owner: older epochs are void from here on) or "change".
    epoch: offset of the owner's fence in this topic; -1 in the fence itself.
    version: offset in `collected` up to which the state holds.
    begin: offset in this topic from which reading gives the whole state as of this record.
    sweep_began, swept: where the sweep under way began (HERE: with this record) and how many of its slices are whole.
    fixed: the stage's small per-partition part (msgpack). puts: changed and swept entries. deletes: removed keys.
    """

    kind: Literal["fence", "change"]
    owner: str
    epoch: int
    version: int
    begin: int
    fixed: bytes
    puts: list[tuple[str, bytes]]
    deletes: list[str]
    more: bool = False  # the same version goes on in the next record: nothing counts until the last part is there
    block_time_ms: int = 0  # when the collector closed the block: now - this is the age of what a reader learns
    sweep_began: int = HERE
    swept: int = 0
