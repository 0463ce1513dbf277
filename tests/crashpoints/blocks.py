"""The units of work: blocks of all kinds, told by their number alone."""

import random

import msgspec

from pipeline.warehouse_writer import PendingBlock
from schemas.block import EventBlock, Origin, OutcomeBlock, RefusedBlock, SessionBlock, Totals
from schemas.event import Event, EventType, Refused
from schemas.outcome import Choice, DecisionLog, Outcome
from schemas.session import Session, SessionRow

BASE_MS = 1_790_000_040_000  # the start of a minute
EVENTS = 12


def _event(draw: random.Random, number: int, place: int) -> Event:
    time_ms = BASE_MS + number * 20_000 + draw.randrange(20_000)
    kind = EventType.DECISION if place == 0 else draw.choice(list(EventType))
    found = Event(f"e{number}-{place}-{draw.getrandbits(32):x}", kind, time_ms, time_ms, "shop")
    found.visitor = draw.choice(["ann", "ben", "cem"])
    found.host, found.path, found.currency = "example.com", draw.choice(["/a", "/b"]), "EUR"
    found.revenue_micros = draw.choice([0, 12_990_000])
    if kind is EventType.DECISION:
        found.decision_id = f"d{number}-{place}"
        log = DecisionLog(found.decision_id, "top", "p", "m", "5", [Choice("a1", 0, 0.5)], ["a1", "a2"], [0.5, 0.5])
        found.properties = msgspec.json.encode(log).decode()
    return found


def chunk(number: int, partitions: int = 2) -> list[PendingBlock]:
    """Return block `number` of each partition and of each topic that ends in the warehouse: rows for every table."""
    draw = random.Random(number)
    time_ms = BASE_MS + number * 20_000
    found: list[PendingBlock] = []
    for partition in range(partitions):
        origin, crc = Origin(partition, number), number * 10 + partition
        events = [_event(draw, number, place) for place in range(EVENTS)]
        totals = Totals((number + 1) * (EVENTS + 1), (number + 1) * EVENTS, number + 1)
        bad = Refused(EVENTS, "bad_json", "", "", "ann", time_ms, "shop", "segment", "track", b"\xff{")
        session = SessionRow(f"v{number % 5}", Session(BASE_MS + partition, time_ms, site="shop", events=number + 1))
        outcome = Outcome(f"d{number % 7}", "a1", "top", "ann", BASE_MS, 0, number, 0, number, 7, 0.5, 1, 7)
        found += [
            PendingBlock("events", origin, EventBlock(time_ms, totals, list(range(EVENTS)), events), crc),
            PendingBlock("bad", origin, RefusedBlock(time_ms, [bad]), crc),
            PendingBlock("sessions", origin, SessionBlock(time_ms, [session]), crc),
            PendingBlock("outcomes", origin, OutcomeBlock(time_ms, [outcome]), crc),
        ]
    return found
