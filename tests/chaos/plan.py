"""What will be sent, and who will be killed when: all of it from one seed, so that a failing run can be run again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

KINDS = ("product_view", "page", "add_to_cart", "purchase", "custom", "nonsense")
"""What an event is. `nonsense` is of a type that nobody knows: it must be found among the refused."""
PAGE, PURCHASE, NONSENSE = KINDS.index("page"), KINDS.index("purchase"), KINDS.index("nonsense")
SHARES = (0.6, 0.2, 0.12, 0.05, 0.028, 0.002)
PIXEL_EVERY = 500  # of so many events one comes by the pixel
JITTER_MS = 50
LATE_SHARE, LATE_MAX_MS = 0.01, 300_000
EVENTS_A_VISITOR = 50

KEY = "demo"
PARTS = (
    "broker",
    "warehouse",
    "collector",
    "clean",
    "sessionise",
    "profile",
    "learn",
    "aggregate",
    "spend",
    "delivery",
)
SUPERVISOR = "supervisor"
DELAY_MAX_S = 1.0
TWIN_SHARE = 0.2  # of the kills that come right after another one

_NAMES = {
    0: b'"type":"track","event":"Product Viewed"',
    1: b'"type":"page"',
    2: b'"type":"track","event":"Product Added"',
    3: b'"type":"track","event":"Order Completed"',
    4: b'"type":"track","event":"Tried On"',
    5: b'"type":"nonsense"',
}

Whole = npt.NDArray[np.int64]


class Kill(NamedTuple):
    """One kill: once so many events are acknowledged, and then so much later. depth: see `Machine.kill`."""

    at_event: int
    delay_s: float
    part: str
    depth: int


def kills(seed: int, count: int, events: int) -> list[Kill]:
    """Return the kills in order. Every part has its turn; the supervisor in every second round."""
    rng = random.Random(f"kills {seed}")
    parts: list[str] = []
    rounds = 0
    while len(parts) < count:
        bag = [*PARTS, *([SUPERVISOR] if rounds % 2 else [])]
        rng.shuffle(bag)
        parts += bag
        rounds += 1
    places = sorted(rng.randint(events // 50, events * 9 // 10) for _ in range(count))
    found: list[Kill] = []
    for place, part in zip(places, parts, strict=False):
        is_twin = bool(found) and rng.random() < TWIN_SHARE
        at_event = found[-1].at_event if is_twin else place
        delay_s = rng.random() if is_twin else rng.random() * DELAY_MAX_S
        found.append(Kill(at_event, round(delay_s, 3), part, rng.randint(0, 1)))
    return found


@dataclass(frozen=True)
class Input:
    """Every event of the load, column by column. Visitors come, stay for some visits, and go.

    per_s: events a second by the events' own clocks. Money is in cents.
    """

    seed: int
    start_ms: int
    per_s: float
    visitor: Whole
    time_ms: Whole
    kind: Whole
    cents: Whole

    @classmethod
    def of(cls, seed: int, events: int, per_s: float, start_ms: int) -> "Input":
        """Draw so many events."""
        rng = np.random.default_rng(seed)
        visitors, present = crowd(events)
        number = np.arange(events)
        visitor = number * (visitors - present) // events + rng.integers(0, present, events)
        time_ms = start_ms + (number * 1_000 / per_s).astype(np.int64) + rng.integers(-JITTER_MS, JITTER_MS, events)
        time_ms -= (rng.random(events) < LATE_SHARE) * rng.integers(0, LATE_MAX_MS, events)
        kind = rng.choice(len(KINDS), events, p=SHARES).astype(np.int64)
        cents = np.where(kind == PURCHASE, rng.integers(1, 100_000, events), 0)
        return cls(seed, start_ms, per_s, visitor, time_ms, kind, cents)

    def __len__(self) -> int:
        """How many events."""
        return len(self.visitor)

    @property
    def prefix(self) -> str:
        """What the ids of all events begin with."""
        return f"c{self.seed}-"

    def is_pixel(self, number: int) -> bool:
        """Whether this event comes by the pixel."""
        return number % PIXEL_EVERY == 7 and self.kind[number] == PAGE

    def body(self, numbers: range) -> tuple[bytes, int]:
        """Return the Segment batch of these events and how many they are; those of the pixel are left out."""
        messages = [self._message(number) for number in numbers if not self.is_pixel(number)]
        return b'{"batch":[' + b",".join(messages) + b"]}", len(messages)

    def pixels(self, numbers: range) -> Iterator[dict[str, str]]:
        """Yield the pixel queries among these events."""
        for number in numbers:
            if self.is_pixel(number):
                yield {
                    "k": KEY,
                    "id": f"{self.prefix}{number}",
                    "v": f"v{self.visitor[number]}",
                    "e": "page",
                    "ts": str(self.time_ms[number]),
                    "u": f"https://shop.example/p/{number % 300}",
                }

    def _message(self, number: int) -> bytes:
        kind, cents = int(self.kind[number]), int(self.cents[number])
        properties: dict[str, object] = {"product_id": f"p{number % 700}", "category": f"c.{number % 20}"}
        if kind == PAGE:
            properties = {"url": f"https://shop.example/p/{number % 300}", "title": f"Page {number % 300}"}
        elif kind == PURCHASE:
            properties |= {"revenue": f"{cents // 100}.{cents % 100:02d}", "currency": "EUR"}
        return b'{%s,"messageId":"%s%d","anonymousId":"v%d","timestamp":"%s","properties":%s}' % (
            _NAMES[kind],
            self.prefix.encode(),
            number,
            self.visitor[number],
            iso(int(self.time_ms[number])),
            msgspec.json.encode(properties),
        )


def crowd(events: int) -> tuple[int, int]:
    """Return (visitors in all, visitors present at a time)."""
    visitors = max(40, events // EVENTS_A_VISITOR)
    return visitors, max(20, visitors // 20)


def gap_ms(events: int, per_s: float) -> int:
    """Return a session gap that cuts some of the pauses of this load and leaves most: thrice the usual one."""
    return max(100, round(3_000 * crowd(events)[1] / per_s))


def iso(time_ms: int) -> bytes:
    """Return a time as Segment's libraries write it."""
    return b"%s.%03dZ" % (_second(time_ms // 1_000), time_ms % 1_000)


@lru_cache(maxsize=4_096)
def _second(time_s: int) -> bytes:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
