"""The arithmetic of sessions: one event, two sessions, one visitor's list. Used by the fold in `sessionise.py`.

A session is a sum over its events, and an event is a session of one; so placing an event is inserting that session and
adding it to its neighbours where they are no more than the gap apart. Addition does not care about order, therefore
neither do sessions, as long as those that an event may belong to are still there:

    closed     stream time > end + gap
    forgotten  closed, and stream time > end + 2 gap + retain, > touched + retain and > leapt + retain
    late       event time < stream time - gap
    stray      event time < stream time - gap - retain

`leapt` is the stream time to which it last went by more than the gap at once: one live event in a partition that
replays last year. Who was in the middle of a session then has not been silent for a year, and goes on with it. What was
to be forgotten before the leap, and only waited for its turn, is forgotten as of then: when its turn comes is chance.

An event that is not stray finds every session that it may belong to (one that ended up to a gap before it): for those
the sessions are exactly the gap rule over the sorted events. A stray event joins what is still kept, or else begins a
session of its own, named after it (`stray_id`), because a forgotten session may have begun at the same instant.

With `split_on_campaign` a session also ends where an event carries another campaign than the session's (one without a
campaign counts as another). Sums cannot be cut in two, so order then matters in one case: a late event *inside* a
session (before its last event) joins it whatever its campaign is. Outside, it is placed as the rule says: it begins a
session if it has another campaign than the one before it, and takes in the session after it unless that one brings a
campaign of its own. An event at the very start of a session always joins: two sessions never share a start.
Source: session windows, "The Dataflow Model" (VLDB 2015), there without retention.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from pipeline.core.whole import fitting
from schemas.event import Event, EventFlag, EventType
from schemas.session import Session

SESSIONS_MAX: Final = 64
"""Sessions kept of one visitor. A visitor has a handful unless a device uploads its history, or somebody makes up times
or campaigns: then the oldest is forgotten early, so that one visitor's entry always fits into a Kafka record."""

SETTLE_MAX: Final = 500

Leaps = Sequence[tuple[int, int]]
"""(from, to) of leaps of stream time, oldest first, see the module's table."""


@dataclass(frozen=True, slots=True)
class SessionRules:
    """gap_ms: inactivity that ends a session, exactly this still belongs. retain_ms: see the module's table.

    sessions_max: sessions kept of one visitor. settle_max: visitors whose sessions one block closes or forgets only
    because time went on. Both at least 1, both there to bound the size of a record.
    """

    gap_ms: int
    retain_ms: int
    split_on_campaign: bool = False
    sessions_max: int = SESSIONS_MAX
    settle_max: int = SETTLE_MAX


# Members looked up once: on an enum class each look-up costs as much as the comparison.
_PAGES: Final = frozenset({EventType.PAGE, EventType.SCREEN})
_COUNTED: Final = frozenset({EventType.IMPRESSION, EventType.CLICK, EventType.CONVERSION, EventType.PURCHASE})
_IMPRESSION: Final = EventType.IMPRESSION
_CLICK: Final = EventType.CLICK
_CONVERSION: Final = EventType.CONVERSION
_BOT: Final = int(EventFlag.BOT)  # `int & IntFlag` runs Python code
_start_of = attrgetter("start_ms")


def session_of(event: Event, now_ms: int, rules: SessionRules, *, is_stray: bool = False) -> Session:
    """Return the session of one event. now_ms: stream time, the event's own included. is_stray: name it by its id."""
    time_ms = event.event_time_ms
    session = Session(time_ms, time_ms, site=event.site, first_id=event.event_id)
    extend(session, event, now_ms)
    if time_ms < now_ms - rules.gap_ms:
        session.late_events = 1
    if is_stray:
        session.stray_id = event.event_id
    return session


def extend(session: Session, event: Event, now_ms: int) -> None:
    """Add an event that is not before the session's end and not late: a faster `merge(session, session_of(event))`.

    Changes the session. now_ms: stream time.
    """
    time_ms = session.end_ms = event.event_time_ms
    session.touched_ms = now_ms
    session.events += 1
    if time_ms == session.start_ms and (event.event_id, event.site) < (session.first_id, session.site):
        session.first_id, session.site = event.event_id, event.site
    kind = event.event_type
    if kind in _PAGES:
        _extend_pages(session, (time_ms, event.event_id, event.path or event.name))
    elif kind in _COUNTED:
        _count(session, kind)
    if event.revenue_micros:
        session.revenue_micros = fitting(session.revenue_micros + event.revenue_micros)
    if event.flags & _BOT:
        session.is_bot = True
    if event.device and (not session.device or time_ms <= session.device_key[0]):
        _take_device(session, (time_ms, event.event_id), event.device)
    if (event.channel or event.utm_source) and (not has_source(session) or time_ms <= session.source[0]):
        _take_source(session, (time_ms, event.event_id, event.channel, event.utm_source, event.utm_medium,
                               event.utm_campaign))  # fmt: skip
    campaign = event.utm_campaign or event.click_id
    if campaign and (not session.campaign[2] or time_ms <= session.campaign[0]):
        _take_campaign(session, (time_ms, event.event_id, campaign))


def merge(earlier: Session, later: Session) -> None:
    """Add `later` to `earlier`, which starts no later and keeps its name. Changes `earlier`.

    `closed` is not touched: whether the sum is closed is for the caller to say, who knows stream time.
    """
    if (later.start_ms, later.first_id, later.site) < (earlier.start_ms, earlier.first_id, earlier.site):
        earlier.first_id, earlier.site = later.first_id, later.site
    earlier.end_ms = max(earlier.end_ms, later.end_ms)
    earlier.touched_ms = max(earlier.touched_ms, later.touched_ms)
    if later.pages:
        earlier.landing = min(earlier.landing, later.landing) if earlier.pages else later.landing
        earlier.exit = max(earlier.exit, later.exit) if earlier.pages else later.exit
    if later.device:
        _take_device(earlier, later.device_key, later.device)
    if has_source(later):
        _take_source(earlier, later.source)
    if later.campaign[2]:
        _take_campaign(earlier, later.campaign)
    earlier.events += later.events
    earlier.pages += later.pages
    earlier.impressions += later.impressions
    earlier.clicks += later.clicks
    earlier.conversions += later.conversions
    earlier.purchases += later.purchases
    earlier.revenue_micros = fitting(earlier.revenue_micros + later.revenue_micros)
    earlier.late_events += later.late_events
    earlier.is_bot = earlier.is_bot or later.is_bot


def joins(earlier: Session, later: Session, rules: SessionRules) -> bool:
    """Say whether two neighbours, by start, are one session."""
    if later.start_ms - earlier.end_ms > rules.gap_ms:
        return False
    if not rules.split_on_campaign or later.campaign[2] in ("", earlier.campaign[2]):
        return True
    return later.start_ms < earlier.end_ms or later.start_ms == earlier.start_ms


def begins_anew(session: Session, event: Event) -> bool:
    """Say whether an event at or after the session's end brings another campaign; only with `split_on_campaign`."""
    campaign = event.utm_campaign or event.click_id
    return bool(campaign) and campaign != session.campaign[2] and event.event_time_ms > session.start_ms


def insert(sessions: list[Session], single: Session, rules: SessionRules) -> tuple[Session, int]:
    """Place a session among its visitor's, adding it to the neighbours that it joins.

    sessions: sorted by start, no two of which join; changed so that this holds again.
    Returns the session that now holds it, and how many of the others went into that one (0: it stands alone;
    2 or more: it bridged them).
    """
    at = bisect_right(sessions, single.start_ms, key=_start_of)
    joined = 0
    if at and joins(sessions[at - 1], single, rules):
        at -= 1
        merge(sessions[at], single)
        joined = 1
    else:
        sessions.insert(at, single)
    held = sessions[at]
    while at + 1 < len(sessions) and joins(held, sessions[at + 1], rules):
        merge(held, sessions.pop(at + 1))
        joined += 1
    return held, joined


def close_ms(session: Session, rules: SessionRules) -> int:
    """Return the stream time after which a session is closed."""
    return session.end_ms + rules.gap_ms


def forget_ms(session: Session, leaps: Leaps, rules: SessionRules) -> int:
    """Return the stream time after which a closed session is forgotten."""
    due_ms = max(session.end_ms + 2 * rules.gap_ms, session.touched_ms) + rules.retain_ms
    for from_ms, to_ms in leaps:
        if due_ms < from_ms:
            break
        due_ms = max(due_ms, to_ms + rules.retain_ms)
    return due_ms


def next_change_ms(sessions: Iterable[Session], leaps: Leaps, rules: SessionRules) -> int:
    """Return the stream time after which the first of a visitor's sessions is to be closed or forgotten."""
    return min(forget_ms(one, leaps, rules) if one.closed else close_ms(one, rules) for one in sessions)


def has_source(session: Session) -> bool:
    """Say whether any event of the session had a channel or a source."""
    return bool(session.source[2] or session.source[3])


def _count(session: Session, kind: EventType) -> None:
    if kind is _IMPRESSION:
        session.impressions += 1
    elif kind is _CLICK:
        session.clicks += 1
    elif kind is _CONVERSION:
        session.conversions += 1
    else:
        session.purchases += 1


def _extend_pages(session: Session, page: tuple[int, str, str]) -> None:
    if not session.pages:
        session.landing = session.exit = page
    else:
        session.exit = max(session.exit, page)
        session.landing = min(session.landing, page)
    session.pages += 1


def _take_device(session: Session, key: tuple[int, str], device: str) -> None:
    if not session.device or (key, device) < (session.device_key, session.device):
        session.device_key, session.device = key, device


def _take_source(session: Session, source: tuple[int, str, str, str, str, str]) -> None:
    if not has_source(session) or source < session.source:
        session.source = source


def _take_campaign(session: Session, campaign: tuple[int, str, str]) -> None:
    if not session.campaign[2] or campaign < session.campaign:
        session.campaign = campaign
