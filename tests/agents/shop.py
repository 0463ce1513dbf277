"""Decisions that cost something, and what comes of them: the input of the stages that join them and keep the books."""

import random

import msgspec

from pipeline.core.decide import make_id
from schemas.block import CollectedBlock
from schemas.event import Collected, Context, Protocol
from schemas.outcome import Choice, DecisionLog
from tests.agents.rig import BASE_MS

DECISIONS = 20  # of a block
PRICE = 7
WINDOW_MS = 8_000  # eight blocks
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
BOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"


class Shop:
    """Blocks of one partition: decisions that cost something, and what comes of them: seen, by a bot, late or never."""

    def __init__(self, partition: int, rng: random.Random) -> None:
        self._partition, self._rng = partition, rng
        self._number = 0
        self._open: list[tuple[int, str, str]] = []  # block, visitor, decision
        self.made = 0

    def block(self, number: int) -> CollectedBlock:
        """Block `number`: a second after the one before it."""
        time_ms = BASE_MS + number * 1_000
        contexts = [
            Context(Protocol.HERALD, "decision", "demo", time_ms),
            Context(Protocol.HERALD, "impression", "demo", time_ms, 0, "192.0.2.0", BROWSER),
            Context(Protocol.HERALD, "impression", "demo", time_ms, 0, "192.0.2.0", BOT),
        ]
        events = [self._decision(number, time_ms) for _ in range(DECISIONS)]
        for made in list(self._open):
            if self._rng.random() < (0.3 if number - made[0] < 8 else 0.02):
                self._open.remove(made)
                events.append(self._seen(time_ms, made, context=2 if made[1].endswith("7") else 1))
        return CollectedBlock(time_ms, "test", contexts, events)

    def _decision(self, number: int, time_ms: int) -> Collected:
        self._number += 1
        self.made += 1
        visitor = f"v{self._partition}-{self._number}"
        name = make_id(time_ms, visitor, self._number)
        line = f"l{self._number % 3}"
        choice = Choice("a", 0, 0.5, "c1", "", b"", line, "impression", PRICE, f"g{number}", "2026-09-21")
        log = DecisionLog(name, "home", "greedy", "", "s", [choice], ["a"], [1.0])
        self._open.append((number, visitor, name))
        return self._event("decision", name, visitor, name, time_ms, properties=msgspec.to_builtins(log))

    def _seen(self, time_ms: int, made: tuple[int, str, str], context: int) -> Collected:
        _, visitor, name = made
        return self._event("impression", f"i{name}", visitor, name, time_ms, context, action_id="a")

    def _event(
        self, kind: str, event_id: str, visitor: str, decision_id: str, time_ms: int, context: int = 0, **more: object
    ) -> Collected:
        found = {"type": kind, "event_time_ms": time_ms, "decision_id": decision_id, "placement_id": "home", **more}
        if context:
            found["user_agent"] = BOT if context == 2 else BROWSER
        return Collected(context, event_id, visitor, msgspec.json.encode(found))
