"""The profile and spend stages by hand: the real folds, fed with what deliveries logged, with time as it is told."""

from typing import Any

import msgspec
from delivery_rig import StateTopic
from published_rig import PARTITIONS, Desk

from pipeline.core.outcome import OutcomeRules
from pipeline.core.profile import ProfileRules
from pipeline.core.profile_stage import Profiles, ProfilesRules
from pipeline.core.spend import Spend
from pipeline.core.state import StateView
from pipeline.edge.clock import now_ms
from pipeline.money import rules
from schemas.block import EventBlock, Origin, OutcomeBlock, Totals
from schemas.event import Event, EventType
from schemas.spend import StockLevel
from schemas.topics import SPEND


class Books:
    """Decisions are folded in partition 0, levels in partition 1. Only what is of one line is taken."""

    def __init__(self, desk: Desk, line_id: str) -> None:
        self._desk, self._line_id = desk, line_id
        self._topics = [StateTopic(desk.settings, SPEND, partition, "hand") for partition in range(PARTITIONS)]
        self._profiles = Profiles(StateView(), ProfilesRules(ProfileRules(), OutcomeRules()))
        self._spends = [Spend(StateView(), rules(desk.settings)) for _ in range(PARTITIONS)]
        self._taken: set[str] = set()
        self._visitors: set[str] = set()
        self.decided_ms = 0
        """When the last decision was made that was taken."""

    def take(self) -> set[str]:
        """Take what was logged since; return the visitors of all decisions that were taken and chose something."""
        events = []
        for found in self._desk.collected():
            name = found.get("decision_id", "")
            choices = found.get("properties", {}).get("choices", [])
            if found["type"] != "decision" or name in self._taken or self._line_id not in str(choices):
                continue
            self._taken.add(name)
            time_ms = found["event_time_ms"]
            self.decided_ms = max(self.decided_ms, time_ms)
            self._visitors.add(found["visitor"])
            text = msgspec.json.encode(found["properties"]).decode()
            events.append(_event(EventType.DECISION, time_ms, found["visitor"], decision_id=name, properties=text))
        self._fold(events, self.decided_ms)
        return self._visitors

    def buys(self, visitor: str, sku: str) -> None:
        """A visitor buys a piece now."""
        time_ms = now_ms()
        self._fold([_event(EventType.PURCHASE, time_ms, visitor, product_id=sku)], time_ms)

    def level(self, sku: str, level: int) -> None:
        """The shop tells its stock now."""
        time_ms = now_ms()
        self._write(1, OutcomeBlock(time_ms, [], [StockLevel("demo", sku, level, time_ms)]))

    def pass_time(self, until_ms: int) -> None:
        """Nothing happens until then."""
        for partition in range(PARTITIONS):
            self._write(partition, OutcomeBlock(until_ms, []))

    def close(self) -> None:
        for topic in self._topics:
            topic.close()

    def _fold(self, events: list[Event], time_ms: int) -> None:
        if events:
            block = EventBlock(time_ms, Totals(), list(range(len(events))), events)
            applied = self._profiles.apply(Origin(0, 0), block)
            self._profiles.take_changes()
            (output,) = applied.outputs
            assert isinstance(output.block, OutcomeBlock)
            self._write(0, output.block)

    def _write(self, partition: int, block: OutcomeBlock) -> None:
        topic, fold = self._topics[partition], self._spends[partition]
        version = topic.view.version + 1
        fold.apply(Origin(partition, version), block)
        for record in topic.writer.records(version, fold.fixed(), fold.take_changes(), 1_000_000, block.block_time_ms):
            offset = topic._send(record)
            topic.view.apply(record, offset)
        topic.writer.written(offset)


def _event(kind: EventType, time_ms: int, visitor: str, **more: Any) -> Event:
    return Event("e", kind, time_ms, time_ms, "demo", visitor, **more)
