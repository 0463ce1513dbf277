"""Group commit, the shell: `BlockWriter` gathers events into blocks of `collected` and says when they have landed.

Collector and delivery both write through it. All its methods belong to the event loop's thread; only a sink's `done`
comes from elsewhere.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Protocol

from pipeline.collector.gather import Gather, GatherRules, PendingBlock
from pipeline.collector.request import Item
from pipeline.collector.sink import KafkaSink
from pipeline.edge.clock import now_ms
from pipeline.edge.metrics import ACK_SECONDS, BLOCK_ROWS, IN_FLIGHT_BYTES
from pipeline.errors import SettingsError
from pipeline.settings import Settings
from schemas.block import CollectedBlock, Headers, encode, headers
from schemas.event import Context
from schemas.topics import COLLECTED

log = logging.getLogger(__name__)

BEAT_S = 0.25


class Sink(Protocol):
    """Where blocks go: `KafkaSink`, or a scripted one in tests."""

    def start(self) -> None:
        """Begin to connect; returns at once."""

    @property
    def is_ready(self) -> bool:
        """True while a block may be sent."""

    def send(self, partition: int, value: bytes, found: Headers, done: Callable[[bool], None]) -> None:
        """Send one record. done(landed) is called once, from any thread, unless `reset` comes first."""

    def reset(self) -> None:
        """Forget what is under way and connect anew: the broker has not answered in time."""

    def close(self) -> None:
        """End it; may block for some seconds."""


class Landing:
    """A request's wait for several blocks: one call, however many there are."""

    __slots__ = ("_done", "_missing")

    def __init__(self, done: Callable[[bool], None], missing: int) -> None:
        """done: called once, with True once all blocks landed, with False once one did not."""
        self._done: Callable[[bool], None] | None = done
        self._missing = missing

    def tell(self, landed: bool) -> None:
        """Take the word on one of the blocks."""
        self._missing -= 1
        if self._done is not None and (not landed or self._missing == 0):
            done, self._done = self._done, None
            done(landed)


Tell = Callable[[bool], None]
Ticket = PendingBlock[Tell]


class BlockWriter:
    """Gathers events into blocks of `collected` and sends each once the one before it is acknowledged.

    add() returns the ticket of the block that took the event; landed(tickets) waits until the broker has them all.
    Blocks that the broker does not confirm within ack_timeout_ms are dropped and their tickets fail: whoever sent the
    events sends them again under the same ids. Where nobody would (keeps=True, delivery's decisions) they are sent
    again from here instead, for as long as it takes; `has_room` bounds what waits.

    refused: gets a result where `collected` has another number of partitions than the settings: end the process.
    """

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        writer_id: str,
        sink: Sink | None = None,
        *,
        keeps: bool = False,
    ) -> None:
        self._keeps = keeps
        rules = GatherRules(
            settings.flush_ms,
            settings.block_bytes_max,
            settings.block_events_max,
            settings.tick_ms,
            settings.flush_max_ms,
            settings.tick_max_ms,
        )
        self._settings = settings
        self._loop = loop
        self._writer_id = writer_id
        self._sink: Sink = sink or KafkaSink(settings, self._refuse)
        self.refused: asyncio.Future[SettingsError] = loop.create_future()
        self._gather: Gather[Tell] = Gather(settings.partitions, rules, self._now_ms())
        self._flush_timer: asyncio.TimerHandle | None = None
        self._beat_timer: asyncio.TimerHandle | None = None
        self._answers: deque[tuple[int, Ticket, float, bool]] = deque()
        self._answers_scheduled = False

    def _refuse(self, error: SettingsError) -> None:
        """Called from the sink's thread."""

        def tell() -> None:
            if not self.refused.done():
                self.refused.set_result(error)

        self._loop.call_soon_threadsafe(tell)

    @staticmethod
    def _now_ms() -> int:
        return int(monotonic() * 1_000)

    def start(self) -> None:
        """Begin to connect, to send ticks and to watch for answers that do not come."""
        self._sink.start()
        self._beat()

    @property
    def in_flight_bytes(self) -> int:
        """Bytes taken and not yet acknowledged."""
        return self._gather.held_bytes

    @property
    def is_available(self) -> bool:
        """True while events may be taken: the broker was reached, and there is room."""
        return self._sink.is_ready and self._gather.held_bytes < self._settings.buffer_bytes_max

    @property
    def answer_overdue_ms(self) -> int:
        """How long the broker has owed an answer, ms."""
        return self._gather.oldest_in_flight_ms(self._now_ms())

    def has_room(self, more_bytes: int) -> bool:
        """True where the buffer can take this many more bytes."""
        return self._gather.held_bytes + more_bytes <= self._settings.buffer_bytes_max

    def add(
        self, partition: int, context: Context, event_id: str, visitor: str, raw: bytes, refused: str = ""
    ) -> Ticket:
        """Put one event into the partition's open block; returns the block's ticket for `landed`."""
        (ticket,) = self.add_all([Item(context, event_id, visitor, raw, refused)], lambda _: partition)
        return ticket

    def add_all(self, items: Iterable[Item], partition_of: Callable[[Item], int]) -> set[Ticket]:
        """Put events into the open blocks of their partitions; returns the blocks' tickets for `landed`."""
        add, now_ms = self._gather.add, self._now_ms()
        tickets = set()
        for item in items:
            context, event_id, visitor, raw, refused = item.context, item.event_id, item.visitor, item.raw, item.refused
            tickets.add(add(partition_of(item), context, event_id, visitor, raw, refused, now_ms))
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(self._settings.flush_ms / 1_000, self._flush_due)
        return tickets

    def when_landed(self, tickets: set[Ticket], done: Callable[[bool], None]) -> None:
        """Call done(True) once the broker has every block, done(False) where one was given up."""
        if not tickets:
            done(True)
            return
        tell = done if len(tickets) == 1 else Landing(done, len(tickets)).tell
        for ticket in tickets:
            ticket.waiters.append(tell)

    async def landed(self, tickets: set[Ticket]) -> bool:
        """Wait for the broker's word: True once it has every block, False where one was given up."""
        future: asyncio.Future[bool] = self._loop.create_future()
        # a cancelled wait has a future that is done
        self.when_landed(tickets, lambda landed: None if future.done() else future.set_result(landed))
        return await future

    async def close(self, timeout_s: float) -> bool:
        """Send what is left and wait for it. False where the broker did not take it all in time."""
        end = monotonic() + timeout_s
        while not self._gather.is_empty and monotonic() < end:
            self._send(self._gather.take(self._now_ms(), at_once=True) if self._sink.is_ready else [])
            await asyncio.sleep(0.005)
        for timer in (self._flush_timer, self._beat_timer):
            if timer is not None:
                timer.cancel()
        landed = self._gather.is_empty
        self._fail(self._gather.give_up(self._now_ms() + 1))
        await self._loop.run_in_executor(None, self._sink.close)
        return landed

    def _flush_due(self) -> None:
        self._flush_timer = None
        self._send_due()

    def _send_due(self) -> None:
        if not self._sink.is_ready:
            return
        self._send(self._gather.take(self._now_ms()))
        left_ms = self._gather.due_in_ms(self._now_ms())
        if left_ms is not None and self._flush_timer is None:
            self._flush_timer = self._loop.call_later(max(1, left_ms) / 1_000, self._flush_due)

    def _send(self, leaving: list[tuple[int, Ticket]]) -> None:
        for partition, ticket in leaving:
            value = encode(CollectedBlock(now_ms(), self._writer_id, ticket.contexts, ticket.events))
            if ticket.events:
                BLOCK_ROWS.labels(COLLECTED.name).observe(len(ticket.events))
            self._send_one(partition, ticket, value)

    def _send_one(self, partition: int, ticket: Ticket, value: bytes) -> None:
        sent_s = monotonic()

        def done(landed: bool) -> None:
            self._answers.append((partition, ticket, sent_s, landed))
            if not self._answers_scheduled:  # one wake-up for all acks of a produce response
                self._answers_scheduled = True
                self._loop.call_soon_threadsafe(self._take_answers)

        self._sink.send(partition, value, headers(value, len(ticket.events)), done)

    def _take_answers(self) -> None:
        self._answers_scheduled = False
        is_failing = False
        while self._answers:
            partition, ticket, sent_s, landed = self._answers.popleft()
            if self._keeps and not landed:
                is_failing |= self._gather.put_back(partition, ticket)
                continue
            if not self._gather.settle(partition, ticket):
                continue  # given up before: its clients have been told to resend
            ACK_SECONDS.observe(monotonic() - sent_s)
            is_failing |= not landed
            _tell(ticket, landed)
        if is_failing:
            self._sink.reset()
        self._send_due()

    def _beat(self) -> None:
        """Every BEAT_S: give up what is overdue, send ticks, publish the gauge."""
        self._beat_timer = self._loop.call_later(BEAT_S, self._beat)
        now = self._now_ms()
        self._drop_overdue(now - self._settings.ack_timeout_ms)
        if self._sink.is_ready:
            self._send(self._gather.take(now))
            self._send(self._gather.ticks(now))
        IN_FLIGHT_BYTES.set(self._gather.held_bytes)

    def _drop_overdue(self, before_ms: int) -> None:
        """Tell the senders of what the broker has not confirmed to resend it; or, where we keep it, send it again."""
        within = f"the broker did not confirm them within {self._settings.ack_timeout_ms} ms"
        if self._keeps:
            again = self._gather.put_back_overdue(before_ms)
            if again:
                log.warning("%d events are sent again: %s", again, within)
                self._sink.reset()
            return
        overdue = self._gather.give_up(before_ms)
        if overdue:
            events = sum(len(ticket.events) for ticket in overdue)
            log.warning("%d events given up: %s; their senders were told to resend", events, within)
            self._fail(overdue)
            self._sink.reset()

    def _fail(self, given_up: list[Ticket]) -> None:
        for ticket in given_up:
            _tell(ticket, False)


def _tell(ticket: Ticket, landed: bool) -> None:
    """Tell all who wait for a block; it forgets them, else the two would hold each other until a garbage collection."""
    waiters, ticket.waiters = ticket.waiters, []
    for tell in waiters:
        tell(landed)
