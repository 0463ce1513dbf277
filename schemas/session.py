"""A session: what one visitor did without a long pause."""

from msgspec import Struct

# gc=False: these hold no cycles, and a block makes thousands of them; tracking them costs a fifth of the stage's time.


class Session(Struct, array_like=True, gc=False):
    """One session, as a sum over its events: merging two is adding them.

    Ties in time are broken by event id, so that no field depends on the order of arrival, except late_events,
    touched_ms and stray_id, which tell of it. Money in micros, times in ms since 1970 UTC.
    Its name in the world is (visitor, start_ms, stray_id).
    """

    start_ms: int
    end_ms: int
    landing: tuple[int, str, str] = (0, "", "")  # (event_time_ms, event_id, path) of the first page; unset: pages == 0
    exit: tuple[int, str, str] = (0, "", "")
    # (event_time_ms, event_id, channel, source, medium, campaign) of the first event with a channel or source
    source: tuple[int, str, str, str, str, str] = (0, "", "", "", "", "")
    device: str = ""
    site: str = ""
    events: int = 0
    pages: int = 0
    impressions: int = 0
    clicks: int = 0
    conversions: int = 0
    purchases: int = 0
    revenue_micros: int = 0
    is_bot: bool = False
    late_events: int = 0
    closed: bool = False
    campaign: tuple[int, str, str] = (0, "", "")  # (time, id, utm_campaign or click id) of the first event with one
    first_id: str = ""  # event id of the first event: `site` is that event's
    device_key: tuple[int, str] = (0, "")  # (time, id) of the first event with a device: `device` is that event's
    touched_ms: int = 0  # the partition's stream time when an event last came
    stray_id: str = ""
    """Id of the first event where it came too late to know what else began at start_ms, else "" (see core/sessions.py).

    Without it, an event as old as a forgotten session's first one would take over that session's name and row."""


class VisitorSessions(Struct, array_like=True, gc=False):
    """What sessionise keeps of one visitor: sessions sorted by start, more than the gap apart.

    forced_ms: the latest start of a session that was forgotten early because the visitor had too many.
    """

    sessions: list[Session]
    forced_ms: int = -(2**62)


class SessionRow(Struct, array_like=True, gc=False):
    """One change for the world: a session in full, or (deleted) the news that its name is void.

    A name is void when its session was merged into an earlier one or begins earlier than was known; of the session
    only start_ms, end_ms and stray_id are then set.
    """

    visitor: str
    session: Session
    deleted: bool = False


class SessioniseFixed(Struct, array_like=True):
    """The per-partition part of sessionise's state. In the world: opened - merged sessions, `closed` of them closed.

    leaps: (from, to) of the times that stream time leapt by more than the gap at once, oldest first: the last one, and
    those before that some session, overdue already, has still to be judged by.
    """

    stream_ms: int
    block_time_ms: int
    events: int = 0  # with a visitor; the sum of `events` over the sessions in the world
    opened: int = 0
    merged: int = 0
    closed: int = 0
    leapt_ms: int = -(2**62)  # where the last leap went
    leaps: list[tuple[int, int]] = []
