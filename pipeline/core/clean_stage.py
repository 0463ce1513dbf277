"""The clean stage: one collected block -> one event block, what was refused, and the books of the partition."""

from collections import Counter
from typing import ClassVar

import msgspec
from msgspec import Struct

from pipeline.core.clean import CleanRules, Drop, clean
from pipeline.core.dedupe import SeenIds, hash_id
from pipeline.core.stage import Applied, Output
from pipeline.core.state import StateView
from schemas.block import CollectedBlock, EventBlock, Origin, RefusedBlock, Totals
from schemas.event import Collected, Context, Event, Refused
from schemas.topics import BAD, CLEAN_STATE, COLLECTED, EVENTS, Topic


class Clean:
    """The fold of one partition. An event is refused, a duplicate, or clean: exactly one of the three."""

    name: ClassVar[str] = "clean"
    source: ClassVar[Topic] = COLLECTED
    reads: ClassVar[type[Struct]] = CollectedBlock
    state: ClassVar[Topic] = CLEAN_STATE

    def __init__(self, view: StateView, rules: CleanRules) -> None:
        """view: the partition as restored. rules: the bounds of cleaning."""
        self.rules = rules
        self.seen = SeenIds(view.entries, rules.dedupe_window_ms)
        self.totals = msgspec.msgpack.decode(view.fixed, type=Totals) if view.fixed else Totals()

    def apply(self, origin: Origin, block: Struct) -> Applied:
        """Clean a block. Order is kept; the ids of refused events are not remembered (a mended resend must pass)."""
        assert isinstance(block, CollectedBlock)
        counts: Counter[tuple[str, str]] = Counter()
        events: list[tuple[int, Event]] = []
        refused: list[Refused] = []
        for row, collected in enumerate(block.events):
            context = block.contexts[collected.context]
            found = clean(collected, context, self.rules)
            if isinstance(found, Drop):
                refused.append(_refused(row, collected, context, found))
                counts["refused", found.reason.value] += 1
                continue
            found.event_id = found.event_id or f"{origin.partition}-{origin.offset}-{row}"
            events.append((row, found))
            if found.bot_reason:
                counts["bot", found.bot_reason] += 1
        kept = self._without_duplicates(origin, block, events)
        counts["duplicate", ""] += len(events) - len(kept)
        self._book(block, kept, refused, len(events) - len(kept))
        return Applied(self._outputs(block, kept, refused), counts)

    def _without_duplicates(
        self, origin: Origin, block: CollectedBlock, events: list[tuple[int, Event]]
    ) -> list[tuple[int, Event]]:
        """Only ids that clients gave are remembered: those that we made are different by nature."""
        named = [
            (place, hash_id(f"{event.site}\n{event.event_id}"))
            for place, (row, event) in enumerate(events)
            if block.events[row].event_id
        ]
        hashes = [found for _, found in named]
        self.seen.forget(block.block_time_ms)
        fresh = self.seen.new_ones(hashes) if hashes else []
        self.seen.add(
            [found for found, new in zip(hashes, fresh, strict=True) if new], origin.offset, block.block_time_ms
        )
        repeated = {place for (place, _), new in zip(named, fresh, strict=True) if not new}
        return [event for place, event in enumerate(events) if place not in repeated] if repeated else events

    def _book(
        self, block: CollectedBlock, kept: list[tuple[int, Event]], refused: list[Refused], duplicates: int
    ) -> None:
        totals = self.totals
        by_reason = dict(totals.refused_by_reason)
        for one in refused:
            by_reason[one.reason] = by_reason.get(one.reason, 0) + 1
        self.totals = Totals(
            received=totals.received + len(block.events),
            clean=totals.clean + len(kept),
            refused=totals.refused + len(refused),
            duplicate=totals.duplicate + duplicates,
            refused_by_reason=by_reason,
        )

    def _outputs(self, block: CollectedBlock, kept: list[tuple[int, Event]], refused: list[Refused]) -> list[Output]:
        rows, events, received = [row for row, _ in kept], [event for _, event in kept], len(block.events)
        outputs = [Output(EVENTS, EventBlock(block.block_time_ms, self.totals, rows, events, received), len(events))]
        if refused:
            outputs.append(Output(BAD, RefusedBlock(block.block_time_ms, refused), len(refused)))
        return outputs

    def take_changes(self) -> tuple[list[tuple[str, bytes]], list[str]]:
        """Return the ids that are new, and the entries that went."""
        return self.seen.take_changes()

    def fixed(self) -> bytes:
        """Return the books."""
        return msgspec.msgpack.encode(self.totals)


def _refused(row: int, collected: Collected, context: Context, drop: Drop) -> Refused:
    return Refused(
        row=row,
        reason=drop.reason.value,
        detail=drop.detail[:500],
        event_id=collected.event_id,
        visitor=collected.visitor,
        received_time_ms=context.received_time_ms,
        site=context.site,
        protocol=context.protocol.value,
        kind=context.kind,
        raw=collected.raw,
    )
