"""Stream time: the clock that each partition carries in its log, so that every replay sees the same time.

It never goes back. While events come it is the latest event time; while a partition is quiet, ticks (blocks without
events) add the time that passed between blocks. So replayed old events are not closed by today's clock, and the last
session of a quiet partition is closed all the same.
"""

from typing import Final

NEVER: Final = -(2**62)
"""Before the first event (stream time) or block (block time): earlier than any time, and still an int64."""


class StreamTime:
    """One partition's clock. Folds keep its two numbers in their `fixed` part and read `now_ms`."""

    __slots__ = ("block_time_ms", "now_ms")

    def __init__(self, now_ms: int = NEVER, block_time_ms: int = NEVER) -> None:
        """now_ms: stream time; block_time_ms: the latest time at which a writer closed a block. Both as restored."""
        self.now_ms = now_ms
        self.block_time_ms = block_time_ms

    def enter(self, block_time_ms: int, *, is_tick: bool) -> bool:
        """Begin a block, before its events; return True where stream time moved.

        block_time_ms: the writer's clock when the block was closed. is_tick: nothing came, not even what was refused.
        The latest block time is kept, not the last one: two writers whose clocks differ would else, by turns, add
        their difference again and again. Before the first event a tick has nothing to add to.
        """
        passed_ms = block_time_ms - self.block_time_ms
        if passed_ms <= 0:
            return False
        is_first = self.block_time_ms == NEVER
        self.block_time_ms = block_time_ms
        if not is_tick or is_first or self.now_ms == NEVER:
            return False
        self.now_ms += passed_ms
        return True

    def advance(self, event_time_ms: int) -> bool:
        """Take one event's time in; return True where stream time moved. Event by event: block borders are chance."""
        if event_time_ms <= self.now_ms:
            return False
        self.now_ms = event_time_ms
        return True
