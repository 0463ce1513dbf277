"""When to send what was chosen for a channel that is sent: at the hour at which this visitor most likely answers.

What is known of hours comes from the warehouse, which a thread asks now and then: sends and answers by placement and
line, and visits. A line's audience is its segment; the visitor's own hours are in the profile. While the warehouse is
away, what was known stays; while nothing is known, it is sent at once.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from pipeline.core.catalogue import Catalogue, LiveCreative, LiveLine
from pipeline.core.decide import time_of, uniform
from pipeline.core.send_time import (
    DEFAULT,
    Known,
    SegmentHours,
    SendTime,
    learn_send,
    openings,
    segment_hours,
    send_time,
)
from pipeline.delivery.offer import Offer, Sending, Whom
from pipeline.delivery.reports import Source
from pipeline.edge.clock import now_ms
from pipeline.errors import HeraldError
from schemas.campaign import DAY_MS, HOUR_MS, Channel
from schemas.outcome import Choice, DecisionLog
from schemas.pacing import HourResponse

log = logging.getLogger(__name__)

SENT: Final = frozenset({Channel.MAIL.value, Channel.PUSH.value, Channel.MESSAGE.value})
"""Channels by which something is sent, at a time that is ours to choose."""
REFRESH_S: Final = 600.0
LOOK_S: Final = 1.0
"""A channel that has just been published waits so long for what is known of it."""
SPAN_MS: Final = 60 * DAY_MS
ANSWER_MS: Final = DAY_MS
"""Sends of so long ago count: the answers to later ones are still to come."""
DAYS_MIN: Final = 7
"""Visits of fewer days than a week are no habit: on the first day everybody comes at the hours that there were."""
EXPLORED: Final = 0.1
"""Share of sends at any allowed hour: without them nothing would be learnt of the others."""

# A decision is one send, whatever it holds: of the line of its first choice, by which its hour was chosen.
SENDS: Final = """
SELECT place, line, hour, count(), countIf(is_answered)
FROM (
  SELECT any(placement_id) AS place, argMin(line_id, rank) AS line, toHour(min(sent), 'UTC') AS hour,
    max(toUnixTimestamp(clicked) > 0 OR conversions > 0) AS is_answered
  FROM outcomes FINAL
  WHERE decided >= fromUnixTimestamp64Milli(%(from_ms)s, 'UTC') AND toUnixTimestamp(sent) > 0
    AND sent < fromUnixTimestamp64Milli(%(to_ms)s, 'UTC')
  GROUP BY decision_id HAVING max(is_bot) = 0
)
GROUP BY place, line, hour
"""
VISITS: Final = """
SELECT toHour(start, 'UTC') AS hour, count(), uniqExact(toDate(start, 'UTC'))
FROM sessions FINAL WHERE start >= fromUnixTimestamp64Milli(%(from_ms)s, 'UTC') AND is_bot = 0 GROUP BY hour
"""


class Sends(NamedTuple):
    """Sends and answers of a placement and line at an hour of the day, UTC."""

    placement_id: str
    line_id: str
    hour: int
    sends: int
    answers: int


class Hours:
    """What is known of hours by channel, and by channel and segment."""

    def __init__(self, catalogue: Catalogue, sends: Sequence[Sends] = (), visits: Mapping[int, int] | None = None):
        """Work out what there is to know. catalogue: says of which channel a placement is, and a line's audience.

        visits: by hour, of everybody.
        """
        everybody: dict[str, HourResponse] = {}
        segments: dict[tuple[str, str], HourResponse] = {}
        for one in sends:
            place, line = catalogue.placements.get(one.placement_id), catalogue.lines.get(one.line_id)
            if place is None:
                continue
            channel = place.body.channel.value
            counts = [everybody.setdefault(channel, HourResponse())]
            if line is not None:
                counts.append(segments.setdefault((channel, segment_of(line)), HourResponse()))
            for each in counts:
                learn_send(each, one.hour, one.sends, one.answers)
        for channel in SENT:
            _add_visits(everybody.setdefault(channel, HourResponse()), visits or {})
        self.sends = float(sum(one.sends for one in sends))
        self._segments = {key: segment_hours(counts, everybody[key[0]]) for key, counts in segments.items()}
        self._everybody = {name: segment_hours(HourResponse(), counts) for name, counts in everybody.items()}

    def all(self) -> Iterator[tuple[str, str, SegmentHours]]:
        """Give (channel, segment, its hours), those of everybody under ""."""
        for channel, found in sorted(self._everybody.items()):
            yield channel, "", found
            yield from (
                (channel, segment, known)
                for (its_channel, segment), known in sorted(self._segments.items(), key=lambda one: one[0])
                if its_channel == channel and segment
            )

    def of(self, channel: str, segment: str) -> SegmentHours:
        """Return a segment's hours; everybody's where nothing was sent to it yet. channel: one of SENT."""
        found = self._segments.get((channel, segment))
        return found if found is not None else self._everybody[channel]


def segment_of(line: LiveLine) -> str:
    """Return the name of the segment that a line is for: its audience."""
    return line.audience.text if line.audience is not None else ""


def _habits(visits: Sequence[tuple[int, int, int]]) -> dict[int, int]:
    """Return visits by hour, none where they are of too few days. visits: (hour, visits, days on which there were)."""
    days = max((days for _, _, days in visits), default=0)
    return {hour: count for hour, count, _ in visits} if days >= DAYS_MIN else {}


def _add_visits(counts: HourResponse, visits: Mapping[int, int]) -> None:
    if visits:
        learn_send(counts, 0, 0.0)  # makes its lists
        counts.activity = [float(visits.get(hour, 0)) for hour in range(24)]


class SendTimes:
    """Says when to send. `set` belongs to the event loop's thread; another one brings `hours` up to date."""

    def __init__(self, catalogue: Callable[[], Catalogue]) -> None:
        """catalogue: gives what is published now."""
        self._catalogue = catalogue
        self._stopping = threading.Event()
        self.hours = Hours(catalogue())

    def start(self, warehouse: Source) -> None:
        """Begin to ask the warehouse, as soon as a channel is published that is sent; returns at once."""
        threading.Thread(target=self._run, args=(warehouse,), name="send-times", daemon=True).start()

    def stop(self) -> None:
        """End the thread, without waiting for the warehouse."""
        self._stopping.set()

    def _run(self, warehouse: Source) -> None:
        wait_s = LOOK_S
        while not self._stopping.wait(wait_s):
            wait_s = LOOK_S
            if any(place.body.channel in SENT for place in self._catalogue().placements.values()):
                self.refresh(warehouse, now_ms())
                wait_s = REFRESH_S

    def refresh(self, warehouse: Source, time_ms: int) -> bool:
        """Ask the warehouse once; False where it is away, and what was known stays. time_ms: now."""
        params = {"from_ms": time_ms - SPAN_MS, "to_ms": time_ms - ANSWER_MS}
        try:
            sends: Sequence[Any] = warehouse.execute(SENDS, params)
            visits: Sequence[Any] = warehouse.execute(VISITS, params)
        except HeraldError as error:
            log.warning("hours of sending stay as they were known: the warehouse does not answer: %s", error)
            return False
        self.hours = Hours(self._catalogue(), [Sends(*row) for row in sends], _habits(visits))
        return True

    def set(self, made: DecisionLog, offer: Offer, whom: Whom) -> Offer:
        """Write into a decision's choices when to send, and return the offer with it. offer.channel: one of SENT.

        It is the next moment of the best hour of the next 24 at which all of the lines and campaigns are open. Where
        money or a piece is reserved for a choice it is sent at once: a reservation is counted from the decision, and
        each minute of waiting would be one in which a click is still paid for, or the piece still held.
        """
        time_ms, lines = time_of(made.decision_id), _lines(made.choices, offer)
        tables = [table for line in lines for table in (line.timetable, line.campaign.timetable)]
        is_reserved = any(choice.pays_for or choice.holds for choice in made.choices)
        moments = {} if is_reserved else openings(tables, time_ms, time_ms + DAY_MS)
        moments.setdefault(time_ms // HOUR_MS % 24, time_ms)
        rules = replace(DEFAULT, allowed=frozenset(moments))
        profile = whom.found.state.profile if whom.found.state is not None else None
        advice = send_time(profile, self.hours.of(offer.channel, segment_of(lines[0])), rules)
        hour, is_explored = _hour(made.decision_id, advice, sorted(moments))
        send_ms = time_ms if advice.known is Known.NOTHING and not is_explored else moments[hour]
        for choice in made.choices:
            choice.send_ms = send_ms
        return replace(offer, sending=Sending(send_ms, advice, is_explored))


def _hour(decision_id: str, advice: SendTime, hours: Sequence[int]) -> tuple[int, bool]:
    """Return at which hour to send, and whether that is to explore: of a decision's id alone, so it can be redrawn."""
    if len(hours) == 1 or uniform(decision_id, "send", 0) >= EXPLORED:
        return advice.hour, False
    return hours[int(uniform(decision_id, "send", 1) * len(hours))], True


def _lines(choices: Sequence[Choice], offer: Offer) -> list[LiveLine]:
    """Return the lines of the choices, the first one's first."""
    lines = {one.id: one.line for one in offer.candidates if isinstance(one, LiveCreative)}
    return list(dict.fromkeys(lines[choice.action_id] for choice in choices))
