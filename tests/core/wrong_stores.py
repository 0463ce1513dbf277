"""Lease stores with one fault each, as somebody could write them, and how the storms are asked whether they find it.

They are made by subclassing, so that what they differ in can be read here.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.lease import Lease, Name, Position
from pipeline.core.spend import SpendRules
from tests.core.lease_rig import MemoryStore


class _AtOnce(SpendRules):
    """Nothing may be late."""

    def window_ms(self, pays_for: str, is_clicked: bool = False) -> int:
        """Return none."""
        return 0


class ClosesWithoutTheWindow(MemoryStore):
    """Closes a lease at its end, though a record of it may still come and count."""

    rules = _AtOnce()


class GrantsToWhoIsBehind(MemoryStore):
    """Asks nobody how far he has read: to him a lease may be closed of which he has seen nothing."""

    def known(self) -> dict[Name, Position]:
        """Return that nothing is needed."""
        return {}


class ClosesUnseen(MemoryStore):
    """Closes a lease as soon as its holder declares it, though the state has not seen what was reserved."""

    def declare(self, lease_id: str, micros: int) -> None:
        """Close it."""
        del self.leases[lease_id]


class IgnoresWhatIsHeld(MemoryStore):
    """Grants by what is spent alone."""

    def held(self) -> list[Lease]:
        """Return none."""
        return []


WRONG_STORES: tuple[type[MemoryStore], ...] = (
    ClosesWithoutTheWindow,
    GrantsToWhoIsBehind,
    ClosesUnseen,
    IgnoresWhatIsHeld,
)


class Stormed(Protocol):
    """What a storm has gone over."""

    @property
    def met(self) -> Mapping[str, int]:
        """How often what happened."""


Storm = Callable[[int, MemoryStore], Stormed]
"""By a seed, over a store. Raises AssertionError where a promise was broken."""


def met_in(storm: Storm, most: int) -> Counter[str]:
    """Run so many storms over a store without a fault; return in how many each thing happened, and `all` of them."""
    runs: Counter[str] = Counter()

    @settings(max_examples=most)
    @given(st.integers(0, 2**32))
    def is_kept(seed: int) -> None:
        runs.update({"all": 1}, **{name: 1 for name, times in storm(seed, MemoryStore()).met.items() if times})

    is_kept()
    return runs


def is_found(storm: Storm, wrong: type[MemoryStore], seeds: int = 60) -> bool:
    """Say whether one of so many storms breaks a promise over a store with a fault."""
    for seed in range(seeds):
        try:
            storm(seed, wrong())
        except AssertionError:
            return True
    return False
