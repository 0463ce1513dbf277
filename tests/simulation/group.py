"""A simulated consumer group: eager rebalances, generations, commits, members that are taken for dead and are not."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from tests.simulation.broker import Faults, Place
from tests.simulation.loop import PROCESS, SimulatedLoop

SESSION_S = 6.0
REBALANCE_S = 10.0


class Member(Protocol):
    """What the group tells a member. Both return at once; the member answers `rejoin`."""

    def told_to_revoke(self, generation: int) -> None:
        """A rebalance has begun: finish, let go, and rejoin for this generation."""

    def told_assigned(self, generation: int, places: list[Place]) -> None:
        """These are yours from now on."""


class Group:
    """The coordinator's side of one group."""

    def __init__(self, loop: SimulatedLoop, faults: Faults, topics: Iterable[str], partitions: int) -> None:
        """Without members."""
        self._loop, self._faults = loop, faults
        self.topics, self._partitions = tuple(topics), partitions
        self.members: list[Member] = []
        self.committed: dict[Place, int] = {}
        self.generation = 0
        self._joined: list[Member] = []
        self._is_open = False  # a rebalance is under way

    def join(self, member: Member) -> None:
        """A member comes, or comes back."""
        if member not in self.members:
            self.members.append(member)
        self.rebalance()

    def evict(self, member: Member) -> None:
        """A member has not been heard of for too long, or has left."""
        if member in self.members:
            self.members.remove(member)
            self.rebalance()

    def rebalance(self) -> None:
        """Begin a generation: everybody lets go first (the protocol is eager)."""
        self.generation += 1
        self._joined, self._is_open = [], True
        self._loop.note("rebalance", self.generation, len(self.members))
        for member in self.members:
            self._tell(member.told_to_revoke, self.generation)
        self._later(REBALANCE_S, self._close, self.generation)

    def rejoin(self, member: Member, generation: int) -> None:
        """A member has let go."""
        if generation != self.generation or not self._is_open or member not in self.members:
            return
        self._joined.append(member)
        if len(self._joined) == len(self.members):
            self._close(generation)

    def _close(self, generation: int) -> None:
        """Give the partitions out; who has not rejoined by now is a member no more."""
        if generation != self.generation or not self._is_open:
            return
        self._is_open = False
        self.members = [member for member in self.members if member in self._joined]
        rng = self._faults.rng
        given: dict[int, list[Place]] = {at: [] for at in range(len(self.members))}
        for partition in range(self._partitions if given else 0):
            given[rng.randrange(len(given))] += [(topic, partition) for topic in self.topics]  # co-partitioned
        for at, member in enumerate(self.members):
            self._tell(member.told_assigned, generation, given[at])

    def commit(self, member: Member, generation: int, offsets: Mapping[Place, int]) -> bool:
        """Take a member's positions; refused where the generation is over."""
        if generation != self.generation or member not in self.members:
            return False
        self.committed.update(offsets)
        return True

    def _tell(self, what: object, *words: object) -> None:
        self._later(self._faults.wait_s(), what, *words)

    def _later(self, delay_s: float, call: object, *words: object) -> None:
        token = PROCESS.set(None)
        self._loop.call_later(delay_s, call, *words)  # type: ignore[arg-type]
        PROCESS.reset(token)
