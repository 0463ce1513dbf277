"""What a seed's visitors do: blocks of `collected` with page views, decisions, clicks, purchases, repeats and rubbish.

Small numbers make everything happen often: sessions end after seconds, ids are forgotten after hours that pass in one
jump, visitors have two open decisions at most, and one in ten events is late, a repeat, or refused.
"""

import random

import msgspec

from pipeline.core.clean import CleanRules
from pipeline.core.decide import make_id
from pipeline.core.outcome import OutcomeRules
from pipeline.core.profile import ProfileRules
from pipeline.core.profile_stage import ProfilesRules
from pipeline.core.sessions import SessionRules
from pipeline.core.spend import SpendRules
from schemas.block import CollectedBlock
from schemas.event import Collected, Context, Protocol
from schemas.outcome import Choice, DecisionLog, GoalTerms

START_MS = 1_790_000_000_000
GAP_MS = 20_000
HOUR_MS = 3_600_000
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"

CLEAN = CleanRules(
    future_max_ms=HOUR_MS,
    age_max_ms=48 * HOUR_MS,
    skew_min_ms=10_000,
    skew_max_ms=HOUR_MS,
    dedupe_window_ms=2 * HOUR_MS,
)
SESSIONS = SessionRules(gap_ms=GAP_MS, retain_ms=30_000, split_on_campaign=True, sessions_max=4, settle_max=3)
PROFILES = ProfilesRules(
    ProfileRules(gap_ms=GAP_MS, interest_half_life_ms=60_000, interests_max=3),
    OutcomeRules(
        click_window_ms=40_000,
        conversion_window_ms=90_000,
        early_window_ms=20_000,
        open_decisions_max=2,
        early_max=2,
        reward_click_micros=300_000,
        reward_conversion_micros=700_000,
    ),
)

SPEND = SpendRules(impression_ms=20_000, click_ms=30_000, action_ms=200_000)

_PLACES = ("home", "basket")
_ACTIONS = ("a", "b", "c")
_CREATIVES = {"a": ("", b"", ""), "b": ("b", b"", "line"), "c": ("c", b"", "line")}  # creative, lesson, line
_PAID = {"b": ("impression", 3, "lease-b", "2026-09-21"), "c": ("action", 5, "lease-c", "2026-09-21")}
_GOALS = (GoalTerms("subscribe", 2_000_000, 120_000), GoalTerms("conversion", -1, 60_000))
_WANTED = {"c": {"goals": _GOALS, "worth_micros": 4_000_000}, "b": {"goals": _GOALS[1:]}}
_CAMPAIGNS = ("", "", "", "spring", "autumn")


class Visitors:
    """The visitors of one partition, and what they have done so far."""

    def __init__(self, rng: random.Random, partition: int) -> None:
        """rng: makes every choice."""
        self._rng, self._partition = rng, partition
        self.now_ms = START_MS
        self._count = 0
        self._names = [f"v{partition}-{number}" for number in range(rng.choice((2, 4, 8)))]
        self._decisions: list[tuple[str, str, str, str]] = []  # id, visitor, placement, action
        self._sent: list[Collected] = []
        self._writers = [("collector", rng.choice((0, 0, -30_000))), ("delivery", rng.choice((0, 5_000, 600_000)))]

    def block(self) -> CollectedBlock:
        """Return the next block; one in six is a tick."""
        rng = self._rng
        self.now_ms += rng.choice((100, 1_000, 3_000, GAP_MS, rng.choice((1_000, 200_000, HOUR_MS))))
        writer, ahead_ms = rng.choice(self._writers)
        received_ms = self.now_ms + ahead_ms
        contexts = [
            Context(Protocol.SEGMENT, "batch", "shop", received_ms, received_ms, "192.0.2.0", BROWSER),
            Context(Protocol.HERALD, "decisions", "shop", received_ms),
        ]
        events = [self._event() for _ in range(0 if rng.random() < 0.17 else rng.choice((1, 1, 2, 3, 6)))]
        return CollectedBlock(received_ms, writer, contexts, events)

    def _event(self) -> Collected:
        rng = self._rng
        if self._sent and rng.random() < 0.08:
            return rng.choice(self._sent)  # a client's repeat
        self._count += 1
        time_ms = self.now_ms + rng.randint(-2_000, 500)
        if rng.random() < 0.12:
            time_ms -= rng.choice((GAP_MS // 2, GAP_MS, 70_000, HOUR_MS))
        visitor = rng.choice(self._names) if rng.random() < 0.95 else ""
        kind = rng.random()
        if kind < 0.5:
            made = self._page(visitor, time_ms)
        elif kind < 0.7 or not self._decisions:
            made = self._decision(visitor, time_ms)
        elif kind < 0.97:
            made = self._response(time_ms)
        else:
            made = Collected(0, f"bad{self._count}", visitor, b'{"type": 7')
        self._sent = [*self._sent[-20:], made]
        return made

    def _page(self, visitor: str, time_ms: int) -> Collected:
        rng = self._rng
        campaign = rng.choice(_CAMPAIGNS)
        tag = f"?utm_source=mail&utm_campaign={campaign}" if campaign else ""
        message = {
            "type": "page",
            "messageId": (name := f"e{self._partition}-{self._count}"),
            "anonymousId": visitor,
            "timestamp": time_ms,
            "properties": {"url": f"https://shop.example/{rng.randrange(3)}{tag}", "category": rng.choice("xyz")},
        }
        return Collected(0, name if rng.random() < 0.9 else "", visitor, msgspec.json.encode(message))

    def _decision(self, visitor: str, time_ms: int) -> Collected:
        rng = self._rng
        name = make_id(time_ms, visitor, self._partition * 100_000 + self._count)
        placement, chosen = rng.choice(_PLACES), rng.sample(_ACTIONS, rng.choice((1, 2)))
        choices = [
            Choice(each, rank, 0.5, "camp", *_CREATIVES[each], *_PAID.get(each, ()), **_WANTED.get(each, {}))
            for rank, each in enumerate(chosen)
        ]
        log = DecisionLog(name, placement, "greedy", "0:1", "s", choices, list(_ACTIONS), [0.5, 0.25, 0.25])
        self._decisions = [*self._decisions[-6:], (name, visitor, placement, chosen[0])]
        return self._ours("decision", name, visitor, time_ms, name, properties=msgspec.to_builtins(log))

    def _response(self, time_ms: int) -> Collected:
        rng = self._rng
        decision_id, visitor, _, action = rng.choice(self._decisions)
        kind = rng.choice(("impression", "click", "click", "conversion", "subscribe", "reward"))
        more: dict[str, object] = {"action_id": action} if rng.random() < 0.7 else {}
        if kind == "reward":
            more["reward"] = rng.random()
        elif kind == "conversion":
            more["value_micros"] = rng.randrange(5_000_000)
        return self._ours(kind, f"r{self._partition}-{self._count}", visitor, time_ms, decision_id, **more)

    @staticmethod
    def _ours(kind: str, name: str, visitor: str, time_ms: int, decision_id: str, **more: object) -> Collected:
        found = {"type": kind, "event_time_ms": time_ms, "decision_id": decision_id, "placement_id": "home", **more}
        return Collected(1, name, visitor, msgspec.json.encode(found))
