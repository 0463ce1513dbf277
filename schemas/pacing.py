"""What pacing remembers: where a line's spend stands, and when visitors come."""

from msgspec import Struct

WEEK_HOURS = 168


class Pace(Struct, array_like=True, frozen=True):
    """What pacing remembers of one budget. Small: it is published with the budget's counters. Money in micros.

    time_ms: 0 = nothing seen yet.
    """

    time_ms: int = 0  # of the last look
    offered_micros: int = 0  # counter as of time_ms
    spent_micros: int = 0  # as of time_ms
    rate: float = 0.0  # offered micros per ms, exponentially weighted
    measured_ms: int = 0  # how long the rate has been measured
    win: float = 1.0  # what is spent of a micro offered that may take part: the share of decisions it wins
    won: float = 0.0  # fading sum of micros spent
    tried: float = 0.0  # fading sum of micros offered that could take part
    probability: float = 0.0  # as told at time_ms
    from_share: float = 0.0  # of the plan that was over when this began
    from_micros: int = 0  # spent by then
    budget_micros: int = 0  # that the two above belong to
    plan_id: int = 0  # that they belong to
    shape_id: int = 0  # of the plan's shares, which a learnt curve moves
    due_micros: float = 0.0  # by the plan, at time_ms


class HourCurve(Struct, array_like=True):
    """Requests by hour of the week (0 = Monday, midnight to one, in the line's zone), and how long each was watched.

    Both fade alike, so that requests / hours stays what it is. Empty lists: nothing seen yet.
    """

    requests: list[float] = []
    hours: list[float] = []  # hours of watching
    updated_ms: int = 0


class HourResponse(Struct, array_like=True):
    """How people of a segment, or all, answer by hour of the day (UTC, 0-23). Empty lists: nothing seen yet."""

    sends: list[float] = []
    responses: list[float] = []  # sends that were answered
    activity: list[float] = []  # visits that began, whether anything was sent or not
