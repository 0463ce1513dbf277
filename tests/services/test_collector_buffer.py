"""`BlockWriter` on a scripted broker: who is told what, and when."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pipeline.collector.buffer import BlockWriter
from pipeline.settings import Settings
from schemas.block import CollectedBlock, Headers, check, decode, rows_of
from schemas.event import Context, Protocol

CONTEXT = Context(Protocol.SEGMENT, "batch", "shop", 1)
SETTINGS = Settings(partitions=2, flush_ms=1, tick_ms=200, ack_timeout_ms=500, buffer_bytes_max=10_000)


class ScriptedBroker:
    """Keeps what it is sent; answers when told to."""

    def __init__(self) -> None:
        self.is_ready = True
        self.sent: list[tuple[int, CollectedBlock, Callable[[bool], None]]] = []
        self.resets = 0
        self.answers_at_once = False

    def start(self) -> None:
        pass

    def send(self, partition: int, value: bytes, found: Headers, done: Callable[[bool], None]) -> None:
        check(value, found)
        block = decode(value, CollectedBlock)
        assert rows_of(found) == len(block.events)
        self.sent.append((partition, block, done))
        if self.answers_at_once:
            done(True)

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        pass

    @property
    def with_events(self) -> list[tuple[int, CollectedBlock, Callable[[bool], None]]]:
        return [sent for sent in self.sent if sent[1].events]


def play(scene: Callable[[BlockWriter, ScriptedBroker], Coroutine[Any, Any, None]], keeps: bool = False) -> None:
    async def run() -> None:
        broker = ScriptedBroker()
        writer = BlockWriter(SETTINGS, asyncio.get_running_loop(), "test", broker, keeps=keeps)
        writer.start()
        await asyncio.wait_for(scene(writer, broker), 20)
        broker.answers_at_once = True
        for _, _, done in broker.sent:
            done(True)
        await writer.close(2)

    asyncio.run(run())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_a_request_over_two_partitions_waits_for_both() -> None:
    async def scene(writer: BlockWriter, broker: ScriptedBroker) -> None:
        tickets = {writer.add(number, CONTEXT, f"e{number}", "v", b"{}") for number in (0, 1)}
        landed = asyncio.ensure_future(writer.landed(tickets))
        await until(lambda: len(broker.with_events) == 2)
        broker.with_events[0][2](True)
        await asyncio.sleep(0.02)
        assert not landed.done()
        broker.with_events[1][2](True)
        assert await landed is True

    play(scene)


def test_one_refused_block_fails_its_own_requests_only() -> None:
    async def scene(writer: BlockWriter, broker: ScriptedBroker) -> None:
        first = asyncio.ensure_future(writer.landed({writer.add(0, CONTEXT, "a", "v", b"{}")}))
        second = asyncio.ensure_future(writer.landed({writer.add(1, CONTEXT, "b", "v", b"{}")}))
        await until(lambda: len(broker.with_events) == 2)
        for partition, _, done in broker.with_events:
            done(partition == 1)
        assert (await first, await second) == (False, True)
        assert (broker.resets, writer.in_flight_bytes) == (1, 0)

    play(scene)


def test_without_an_answer_the_request_is_told_to_resend_and_the_bytes_are_freed() -> None:
    async def scene(writer: BlockWriter, broker: ScriptedBroker) -> None:
        assert await writer.landed({writer.add(0, CONTEXT, "a", "v", b"{}")}) is False
        assert (broker.resets >= 1, writer.in_flight_bytes) == (True, 0)
        broker.with_events[0][2](True)  # too late: must change nothing
        await asyncio.sleep(0.02)
        assert writer.in_flight_bytes == 0

    play(scene)


def test_while_the_broker_is_away_events_are_held_and_then_sent_in_order() -> None:
    async def scene(writer: BlockWriter, broker: ScriptedBroker) -> None:
        broker.is_ready = False
        assert not writer.is_available
        tickets = {writer.add(0, CONTEXT, str(number), "v", b"{}") for number in range(5)}
        await asyncio.sleep(0.05)
        assert broker.with_events == []
        broker.is_ready = broker.answers_at_once = True
        assert await writer.landed(tickets) is True
        assert [event.event_id for _, block, _ in broker.with_events for event in block.events] == list("01234")

    play(scene)


def test_a_cancelled_request_takes_no_other_one_with_it() -> None:
    async def scene(writer: BlockWriter, broker: ScriptedBroker) -> None:
        ticket = writer.add(0, CONTEXT, "a", "v", b"{}")
        first, second = (asyncio.ensure_future(writer.landed({ticket})) for _ in range(2))
        await until(lambda: broker.with_events)
        first.cancel()
        broker.with_events[0][2](True)
        assert await second is True

    play(scene)


def test_room_is_counted_until_the_answer() -> None:
    async def scene(writer: BlockWriter, broker: ScriptedBroker) -> None:
        ticket = writer.add(0, CONTEXT, "a", "v", b"x" * 9_000)
        assert not writer.has_room(2_000)
        await until(lambda: broker.with_events)
        assert not writer.has_room(2_000)
        broker.with_events[0][2](True)
        assert await writer.landed({ticket}) is True
        assert writer.has_room(2_000)

    play(scene)


def test_a_quiet_log_gets_ticks_and_none_behind_an_unanswered_one() -> None:
    async def scene(writer: BlockWriter, broker: ScriptedBroker) -> None:
        await until(lambda: len(broker.sent) == 2)
        await asyncio.sleep(0.3)
        assert sorted(partition for partition, _, _ in broker.sent) == [0, 1]
        assert all(block.events == [] and block.block_time_ms > 0 for _, block, _ in broker.sent)
        broker.sent[0][2](True)
        await until(lambda: len(broker.sent) >= 3)
        assert broker.sent[2][0] == broker.sent[0][0]

    play(scene)


def test_a_stop_waits_for_what_is_under_way() -> None:
    async def scene(writer: BlockWriter, broker: ScriptedBroker) -> None:
        landed = asyncio.ensure_future(writer.landed({writer.add(0, CONTEXT, "a", "v", b"{}")}))
        closing = asyncio.ensure_future(writer.close(5))
        await until(lambda: broker.with_events)
        assert not closing.done()
        broker.answers_at_once = True
        for _, _, done in list(broker.sent):
            done(True)
        assert await closing is True
        assert await landed is True

    play(scene)


def test_a_stop_without_an_answer_tells_who_waits() -> None:
    async def scene(writer: BlockWriter, broker: ScriptedBroker) -> None:
        landed = asyncio.ensure_future(writer.landed({writer.add(0, CONTEXT, "a", "v", b"{}")}))
        await asyncio.sleep(0)
        assert await writer.close(0.05) is False
        assert await landed is False

    play(scene)


def test_what_nobody_would_resend_is_sent_again_from_here_until_it_lands() -> None:
    """Delivery's decisions: an error and a silence of the broker delay their block, in order, and lose nothing."""

    async def scene(writer: BlockWriter, broker: ScriptedBroker) -> None:
        landed = asyncio.ensure_future(writer.landed({writer.add(0, CONTEXT, "first", "v", b"{}")}))
        await until(lambda: len(broker.with_events) == 1)
        writer.add(0, CONTEXT, "second", "v", b"{}")
        broker.with_events[0][2](False)
        await until(lambda: len(broker.with_events) == 2)
        await until(lambda: len(broker.with_events) == 3)  # no answer within ack_timeout_ms
        broker.with_events[2][2](True)
        await until(lambda: len(broker.with_events) == 4)
        broker.with_events[3][2](True)
        assert await landed
        sent = [[event.event_id for event in block.events] for _, block, _ in broker.with_events]
        assert sent == [["first"], ["first"], ["first"], ["second"]]
        assert broker.resets == 2
        await until(lambda: writer.in_flight_bytes == 0)

    play(scene, keeps=True)
