"""Group commit, the pure part: which events form a block, and when a block may leave.

One open block a partition. A block leaves when the one before it is acknowledged and it is old enough or full; so a
busy collector sends few large blocks and an idle one sends small ones at once. No clock, no Kafka: `BlockWriter` in
buffer.py is the shell.
"""

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from schemas.event import Collected, Context

T = TypeVar("T")

EVENT_OVERHEAD_BYTES = 160  # a Collected in memory beside its raw bytes
EVENTS_PER_MS = 6
"""So many waiting events are worth a ms of waiting: a flush costs all parts some 40 ms of CPU, an event 0.1."""
QUIET_MS = 20
"""No event for so long, and none is worth waiting for: whoever sends may itself be waiting for our answer."""
QUIET_GAPS = 16
QUIET_MS_MIN = 3
"""Nor is one after a silence of so many times the gaps between the requests so far: then everybody waits for us."""


@dataclass(frozen=True)
class GatherRules:
    """When a block leaves. flush_ms: age; block_bytes_max, block_events_max: size; tick_ms: silence before a tick.

    flush_max_ms: age at most while many events come, see `Gather.take`; below flush_ms it has no effect.
    tick_max_ms: silence between two ticks at most, see `Gather.ticks`; below tick_ms it has no effect.
    """

    flush_ms: int
    block_bytes_max: int
    block_events_max: int
    tick_ms: int
    flush_max_ms: int = 0
    tick_max_ms: int = 0


class PendingBlock(Generic[T]):
    """Events of one partition that will be one record. opened_ms: when the first one came. waiters: who is told."""

    __slots__ = ("block_bytes", "contexts", "events", "opened_ms", "waiters")

    def __init__(self, opened_ms: int) -> None:
        self.opened_ms = opened_ms
        self.contexts: list[Context] = []
        self.events: list[Collected] = []
        self.block_bytes = 0
        self.waiters: list[T] = []


class _Partition(Generic[T]):
    """One partition's blocks: at most one with the broker, full ones behind it, and the open one last.

    tick_after_ms: the silence after which it ticks.
    """

    __slots__ = ("in_flight", "queue", "sent_ms", "tick_after_ms")

    def __init__(self, now_ms: int, tick_after_ms: int) -> None:
        self.tick_after_ms = tick_after_ms
        self.queue: deque[PendingBlock[T]] = deque()
        self.in_flight: PendingBlock[T] | None = None
        self.sent_ms = now_ms


def _context_bytes(context: Context) -> int:
    """What a request's own part takes in a block: headers can be larger than the event that came with them."""
    return 3 * (len(context.user_agent) + len(context.referrer))


class Gather(Generic[T]):
    """Events on their way into blocks. Every method is told the time (ms, any origin that does not go back)."""

    def __init__(self, partitions: int, rules: GatherRules, now_ms: int = 0) -> None:
        self.rules = rules
        self.held_bytes = 0  # open, waiting and sent but not acknowledged
        self._last_ms = now_ms  # when an event last came
        self._partitions: list[_Partition[T]] = [_Partition(now_ms, rules.tick_ms) for _ in range(partitions)]

    def add(
        self, partition: int, context: Context, event_id: str, visitor: str, raw: bytes, refused: str, now_ms: int
    ) -> PendingBlock[T]:
        """Put one event into its partition's open block and return the block.

        A context is written once into a block for a run of events that share it (compared by identity).
        """
        self._last_ms = now_ms
        queue = self._partitions[partition].queue
        size = len(raw) + EVENT_OVERHEAD_BYTES
        with_context = size + _context_bytes(context)
        block = queue[-1] if queue else None
        if block is None or self._is_full(block) or block.block_bytes + with_context > self.rules.block_bytes_max:
            block = PendingBlock(now_ms)
            queue.append(block)
        if not block.contexts or block.contexts[-1] is not context:
            block.contexts.append(context)
            size = with_context
        block.events.append(Collected(len(block.contexts) - 1, event_id, visitor, raw, refused))
        block.block_bytes += size
        self.held_bytes += size
        return block

    def _is_full(self, block: PendingBlock[T]) -> bool:
        rules = self.rules
        return block.block_bytes >= rules.block_bytes_max or len(block.events) >= rules.block_events_max

    def take(self, now_ms: int, at_once: bool = False) -> list[tuple[int, PendingBlock[T]]]:
        """Return the blocks that leave now, as (partition, block); each partition then waits for `settle`.

        One produce request carries all partitions of a broker, so once one block is due the younger ones go with it.
        The more events wait, the longer they wait for others: few come at once to the stages, many in large blocks;
        but not when no more come.
        at_once: do not wait for age (stopping).
        """
        if not at_once and self.due_in_ms(now_ms) != 0:
            return []
        return [(number, self._leave(part, part.queue.popleft(), now_ms)) for number, part in self._idle()]

    def _idle(self) -> list[tuple[int, _Partition[T]]]:
        """Return the partitions whose next block waits for nothing but its age."""
        return [(number, part) for number, part in enumerate(self._partitions) if part.in_flight is None and part.queue]

    def due_in_ms(self, now_ms: int) -> int | None:
        """Return how long the next block has still to wait for its age, ms; None where no block does."""
        queues = [part.queue for _, part in self._idle()]
        if not queues:
            return None
        if any(len(queue) > 1 or self._is_full(queue[0]) for queue in queues):
            return 0
        patience_ms = self.rules.flush_ms + sum(len(queue[0].events) for queue in queues) // EVENTS_PER_MS
        opened_ms = min(queue[0].opened_ms for queue in queues)
        quiet_ms = self._quiet_ms(opened_ms, max(len(queue[0].contexts) for queue in queues))
        due_ms = min(opened_ms + min(patience_ms, self.rules.flush_max_ms), self._last_ms + quiet_ms)
        return max(0, max(due_ms, opened_ms + self.rules.flush_ms) - now_ms)

    def _quiet_ms(self, opened_ms: int, requests: int) -> int:
        """After what silence nobody is expected any more; requests: came since opened_ms, at least so many."""
        gaps_ms = QUIET_GAPS * (self._last_ms - opened_ms) // max(1, requests - 1)
        return min(QUIET_MS, max(QUIET_MS_MIN, gaps_ms)) if requests > 1 else QUIET_MS

    def ticks(self, now_ms: int) -> list[tuple[int, PendingBlock[T]]]:
        """Return an empty block for each partition that has been quiet for long enough and waits for no answer.

        The first after tick_ms, then ever more seldom up to tick_max_ms: each costs every stage a round, and time in
        the log need not be exact where nothing happens. Once one is due all quiet ones go with it, in one round.
        """
        quiet = [(number, part) for number, part in enumerate(self._partitions) if not (part.in_flight or part.queue)]
        if not any(now_ms - part.sent_ms >= part.tick_after_ms for _, part in quiet):
            return []
        due = [(number, part) for number, part in quiet if now_ms - part.sent_ms >= self.rules.tick_ms]
        leaving = [(number, self._leave(part, PendingBlock(now_ms), now_ms)) for number, part in due]
        for _, part in due:
            part.tick_after_ms = max(self.rules.tick_ms, min(2 * part.tick_after_ms, self.rules.tick_max_ms))
        return leaving

    def _leave(self, part: _Partition[T], block: PendingBlock[T], now_ms: int) -> PendingBlock[T]:
        part.in_flight = block
        part.sent_ms = now_ms
        if block.events:
            part.tick_after_ms = self.rules.tick_ms
        return block

    def settle(self, partition: int, block: PendingBlock[T]) -> bool:
        """Note that the broker's word on a block is in (good or bad). False where it was given up before."""
        part = self._partitions[partition]
        if part.in_flight is not block:
            return False
        part.in_flight = None
        self.held_bytes -= block.block_bytes
        return True

    def put_back(self, partition: int, block: PendingBlock[T]) -> bool:
        """Let a sent block wait again, before all others, to be sent once more. False where it was not in flight."""
        part = self._partitions[partition]
        if part.in_flight is not block:
            return False
        part.in_flight = None
        part.queue.appendleft(block)
        return True

    def put_back_overdue(self, sent_before_ms: int) -> int:
        """Put back every block sent at or before this time and not answered; return how many events they hold."""
        events = 0
        for number, part in enumerate(self._partitions):
            if part.in_flight is not None and part.sent_ms <= sent_before_ms:
                events += len(part.in_flight.events)
                self.put_back(number, part.in_flight)
        return events

    def give_up(self, opened_before_ms: int) -> list[PendingBlock[T]]:
        """Drop every block opened at or before this time, sent or not, and return them: their clients must resend."""
        given_up: list[PendingBlock[T]] = []
        for part in self._partitions:
            if part.in_flight is not None and part.in_flight.opened_ms <= opened_before_ms:
                given_up.append(part.in_flight)
                part.in_flight = None
            while part.queue and part.queue[0].opened_ms <= opened_before_ms:
                given_up.append(part.queue.popleft())
        self.held_bytes -= sum(block.block_bytes for block in given_up)
        return given_up

    def oldest_in_flight_ms(self, now_ms: int) -> int:
        """Return how long the broker has owed an answer, ms; 0 where it owes none."""
        sent = [part.sent_ms for part in self._partitions if part.in_flight is not None]
        return max(0, now_ms - min(sent)) if sent else 0

    @property
    def is_empty(self) -> bool:
        """True where nothing waits and the broker owes no answer."""
        return all(part.in_flight is None and not part.queue for part in self._partitions)
