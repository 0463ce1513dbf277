"""Lease stores with one fault each, as somebody could write them: the storms must find every one.

They are made by subclassing, so that what they differ in can be read here.
"""

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
