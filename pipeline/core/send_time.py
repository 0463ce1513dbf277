"""The best hour of the day to send to a visitor: from when they come by themselves, and when their segment answers.

How likely an answer is at an hour = how the segment answers then x how much more than its segment the visitor is there.
Little data counts for little: a segment's hours are drawn to everybody's, a visitor's to their segment's. So a visitor
of whom nothing is known gets the segment's best hour, and a segment of which nothing is known everybody's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import NDArray

from pipeline.core.schedule import Timetable
from schemas.campaign import HOUR_MS
from schemas.pacing import HourResponse
from schemas.profile import Profile

HOURS: Final = 24
ANY_HOUR: Final = frozenset(range(HOURS))
Floats = NDArray[np.float64]
_NEIGHBOURS: Final = (0.25, 0.5, 0.25)
_STRENGTH_MIN: Final = 20.0
_STRENGTH_MAX: Final = 1e6
_RATE_MIN: Final = 1e-9
_DOUBT_MIN: Final = 0.04
"""Of what is expected, however well it fits, each hour may be off by a fifth."""


class Known(StrEnum):
    """What an advice rests on, the finest that had a say."""

    VISITOR = "visitor"
    SEGMENT = "segment"
    ALL = "all"
    NOTHING = "nothing"


class SendTime(NamedTuple):
    """An advice. hour: UTC. rate: expected share of sends at this hour that are answered. lift: over sending at any
    allowed hour alike (0.2 = a fifth more), with its 90 % interval. sure: probability that this hour is better than
    those on average: for this visitor where `known` is the visitor, else for the segment's people together.
    usual_hour: the segment's best. over_usual: lift over that one.
    """

    hour: int
    rate: float
    lift: float
    low: float
    high: float
    sure: float
    known: Known
    usual_hour: int
    over_usual: float


@dataclass(frozen=True)
class SendTimeRules:
    """visits_shrink: so many visits weigh as much as the segment's habits. segment_shrink: so many sends of a segment
    weigh as much as everybody's level. trust: how far habits say when somebody answers: 0 = not at all, 1 = in
    proportion. allowed: hours (UTC) that may be advised.
    """

    visits_shrink: float = 20.0
    segment_shrink: float = 50.0
    trust: float = 1.0
    allowed: frozenset[int] = ANY_HOUR


DEFAULT: Final = SendTimeRules()


def learn_send(counts: HourResponse, hour: int, sends: float = 1.0, responses: float = 0.0) -> None:
    """Count sends at an hour, and answers to sends at that hour whenever they came, changing the counts.

    A later answer is learnt with sends=0. Raises ValueError for an hour that is none.
    """
    _fill(counts, hour)
    counts.sends[hour] += sends
    counts.responses[hour] += responses


def learn_visit(counts: HourResponse, hour: int) -> None:
    """Count a visit of somebody of the segment, by the hour in which it began, changing the counts."""
    _fill(counts, hour)
    counts.activity[hour] += 1.0


def _fill(counts: HourResponse, hour: int) -> None:
    if hour not in ANY_HOUR:
        raise ValueError(f"hour {hour}, expected 0 to 23")
    if not counts.sends:
        counts.sends, counts.responses, counts.activity = [0.0] * HOURS, [0.0] * HOURS, [0.0] * HOURS


@dataclass(frozen=True)
class SegmentHours:
    """A segment's hours, worked out once and used for all of its visitors. Arrays of 24.

    rate: expected share of answers. doubt: variance of its logarithm. habits: share of its visits, sums to 1.
    known: whose answers or visits it rests on.
    """

    rate: Floats
    doubt: Floats
    habits: Floats
    known: Known


def segment_hours(segment: HourResponse, everybody: HourResponse, rules: SendTimeRules = DEFAULT) -> SegmentHours:
    """Return a segment's hours, drawn to everybody's as far as its counts are small or chance explains them."""
    sent, answered, visits = _arrays(segment)
    all_sent, all_answered, all_visits = _arrays(everybody)
    shrink, trust = rules.visits_shrink, rules.trust
    all_habits = _share(all_visits, np.full(HOURS, 1.0 / HOURS), shrink)
    habits = _share(visits, all_habits, shrink)
    # Before any answer an hour is worth what comes in it by itself; then the answers say what it is worth.
    shape = (HOURS * all_habits) ** trust
    level = (float(all_answered.sum()) + 0.5) / (float((all_sent * shape).sum()) + 10.0)
    all_rate, _ = _shrunk(all_sent, all_answered, np.minimum(1.0, level * shape))
    shape = all_rate * (habits / all_habits) ** trust
    level = (float(answered.sum()) + rules.segment_shrink * float(shape.mean())) / (
        float((sent * shape).sum()) + rules.segment_shrink * float(shape.mean())
    )
    rate, doubt = _shrunk(sent, answered, np.minimum(1.0, level * shape))
    known = Known.ALL if all_sent.any() or all_visits.any() else Known.NOTHING
    if sent.any() or visits.any():
        known = Known.SEGMENT
    return SegmentHours(rate, doubt, habits, known)


def _arrays(counts: HourResponse) -> tuple[Floats, Floats, Floats]:
    lists = (counts.sends, counts.responses, counts.activity)
    sent, answered, visits = (np.array(one or [0.0] * HOURS, dtype=np.float64) for one in lists)
    return sent, np.minimum(answered, sent), visits


def _share(visits: Floats, prior: Floats, shrink: float) -> Floats:
    return np.asarray((visits + shrink * prior) / (float(visits.sum()) + shrink))


def _shrunk(sent: Floats, answered: Floats, expected: Floats) -> tuple[Floats, Floats]:
    """Return (rates drawn to the expected ones, variance of their logarithm): Beta posteriors by hour.

    How strongly is found in the counts: as far as the hours differ by no more than chance, they are taken as expected.
    """
    strength = _strength(sent, answered, expected)
    rate = np.maximum((answered + strength * expected) / (sent + strength), _RATE_MIN)
    # Precisions of the logarithm add up: of what is expected, and of what was sent.
    prior = np.maximum((1.0 - expected) / (strength * np.maximum(expected, _RATE_MIN)), _DOUBT_MIN)
    return rate, np.asarray(1.0 / (1.0 / prior + sent * rate / np.maximum(1.0 - rate, _RATE_MIN)))


def _strength(sent: Floats, answered: Floats, expected: Floats) -> float:
    """Return how many sends the expected rates are worth, by the method of moments on (answered - expected)."""
    variance = sent * expected * (1.0 - expected)
    squares = float(((answered - sent * expected) ** 2).sum())
    # E[squares] = sum of n p (1-p) (1 + (n - 1) / (strength + 1))
    room = float((variance * np.maximum(sent - 1.0, 0.0)).sum())
    excess = squares - float(variance.sum())
    if room <= 0.0 or excess <= 0.0:
        return _STRENGTH_MAX
    return min(_STRENGTH_MAX, max(_STRENGTH_MIN, room / excess - 1.0))


def send_time(profile: Profile | None, segment: SegmentHours, rules: SendTimeRules = DEFAULT) -> SendTime:
    """Return the best hour for a visitor. profile: None, or one without hours, gives the segment's best.

    Ties go to the earlier hour. Raises ValueError where no hour is allowed.
    """
    allowed = np.array(sorted(rules.allowed & ANY_HOUR))
    if not len(allowed):
        raise ValueError("no hour is allowed, expected at least one of 0 to 23")
    weights = visit_weights(profile.hours, profile.visits, profile.events) if profile else np.zeros(HOURS)
    seen = float(weights.sum())
    habits = _share(weights, segment.habits, rules.visits_shrink)
    tilt = (habits / segment.habits) ** rules.trust
    rate = np.clip(segment.rate * tilt, _RATE_MIN, 1.0)
    usual = int(allowed[np.argmax(segment.rate[allowed])])
    hour = int(allowed[np.argmax(rate[allowed])])
    if segment.known is Known.NOTHING and not seen:
        usual = hour = int(allowed[0])
    mean = float(rate[allowed].mean())
    lift = float(rate[hour]) / mean - 1.0
    known, doubt = segment.known, _doubt_of_lift(hour, rate[allowed], float(rate[hour]), segment.doubt, allowed)
    if seen > 0.0 and rules.trust > 0.0:
        known = Known.VISITOR
        visits = (seen + rules.visits_shrink) * float(habits[hour])
        doubt += rules.trust**2 * (1.0 - float(habits[hour])) / visits  # of the logarithm of a Dirichlet's share
    low, high, sure = _spread(lift, doubt)
    over_usual = float(rate[hour] / rate[usual]) - 1.0
    return SendTime(hour, float(rate[hour]), lift, low, high, sure, known, usual, over_usual)


def _doubt_of_lift(hour: int, rates: Floats, rate: float, doubt: Floats, allowed: NDArray[np.int64]) -> float:
    """Return the variance of log(rate / mean rate), which moves with the rate by its share of the mean."""
    total = float(rates.sum())
    shares = rates / total
    variance = float(doubt[hour]) * (1.0 - 2.0 * rate / total) + float((shares**2 * doubt[allowed]).sum())
    return max(0.0, variance)


def _spread(lift: float, doubt: float) -> tuple[float, float, float]:
    """Return (low, high, sure) of a lift whose logarithm has this variance.

    By a Gamma of mean 1 with the same relative variance: of little data it is as skewed as a share of few visits is.
    """
    if doubt < 1e-9:
        return lift, lift, 1.0 if lift > 1e-9 else 0.5
    shape = 1.0 / doubt
    low, high = (float(scipy.special.gammaincinv(shape, tail)) / shape for tail in (0.05, 0.95))
    sure = float(scipy.special.gammaincc(shape, shape / (1.0 + lift))) if lift > 1e-9 else 0.5
    return min(lift, (1.0 + lift) * low - 1.0), max(lift, (1.0 + lift) * high - 1.0), sure


def openings(timetables: Sequence[Timetable], from_ms: int, to_ms: int) -> dict[int, int]:
    """Return the hours of the day (UTC) at which something may be sent, each with its first moment of that.

    timetables: all of which must be open. from_ms, to_ms: ms since 1970 UTC; of what comes again, the first is taken.
    """
    found: dict[int, int] = {}
    begins = range(from_ms - from_ms % HOUR_MS, to_ms, HOUR_MS)
    for begin_ms in begins:
        hour, end_ms = begin_ms // HOUR_MS % HOURS, min(begin_ms + HOUR_MS, to_ms)
        at_ms = max(begin_ms, from_ms)
        while hour not in found and at_ms < end_ms:
            opens_ms = max((one.next_opening_ms(at_ms) for one in timetables), default=at_ms)
            if opens_ms == at_ms:
                found[hour] = at_ms
            at_ms = opens_ms
    return found


def visit_weights(hours: Mapping[int, float], visits: int, events: int) -> Floats:
    """Return a profile's hours as visits, spread a little over the hours beside.

    hours: weights by UTC hour. Twenty pages in one evening are one piece of evidence, not twenty: weights are scaled by
    visits / events. Hours or weights that are none are left out.
    """
    weights = np.zeros(HOURS)
    for hour, weight in hours.items():
        if hour in ANY_HOUR and 0.0 < weight < math.inf:
            weights[hour] = weight
    weights *= min(1.0, visits / events) if events > 0 and visits > 0 else 1.0
    before, here, after = _NEIGHBOURS
    return np.asarray(before * np.roll(weights, 1) + here * weights + after * np.roll(weights, -1))
