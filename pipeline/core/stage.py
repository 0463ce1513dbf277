"""What every stage's pure part looks like: a fold of one partition's blocks.

The shell (agents/rounds.py) takes the waiting blocks, calls `apply` on each, writes the outputs, then the state
records, then acknowledges. Nothing in a fold knows a clock, randomness, the network or Faust.
"""

from collections import Counter
from typing import ClassVar, NamedTuple, Protocol

from msgspec import Struct

from schemas.block import Origin
from schemas.topics import Topic


class Output(NamedTuple):
    """One record to write: always into the input's partition, under the input's origin."""

    topic: Topic
    block: Struct
    rows: int


class Applied(NamedTuple):
    """What one block led to. counts: (what, label) -> how many, for the metrics; never for the books."""

    outputs: list[Output]
    counts: Counter[tuple[str, str]]


class Fold(Protocol):
    """One partition of one stage. Made from a restored `StateView` and the stage's rules; then fed block by block."""

    name: ClassVar[str]
    source: ClassVar[Topic]
    reads: ClassVar[type[Struct]]  # the kind of block in `source`
    state: ClassVar[Topic]

    def apply(self, origin: Origin, block: Struct) -> Applied:
        """Take one block in. A pure function of the state before it and of the block."""

    def take_changes(self) -> tuple[list[tuple[str, bytes]], list[str]]:
        """Return (puts, deletes) since the last call, packed: the next state record."""

    def fixed(self) -> bytes:
        """Return the small per-partition part of the state, packed."""
