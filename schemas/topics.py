"""Every topic, in one list: `herald topics --apply` makes them, the docs are made from them."""

from dataclasses import dataclass

DAY_MS = 86_400_000
KEEP = -1  # no retention by time: the stage deletes what no reader can need


@dataclass(frozen=True)
class Topic:
    """One topic. Partition = that of the visitor, on every topic. retention_ms: -1 keeps until the stage trims it."""

    name: str
    meaning: str
    writer: str
    record: str
    retention_ms: int = 7 * DAY_MS
    is_state: bool = False


COLLECTED = Topic("collected", "events as received, and ticks", "collector, delivery", "CollectedBlock")
EVENTS = Topic("events", "clean events: one record for each collected block", "clean", "EventBlock")
BAD = Topic("bad", "refused events with raw bytes and reason", "clean", "RefusedBlock", 30 * DAY_MS)
SESSIONS = Topic("sessions", "sessions changed by a block, each in full", "sessionise", "SessionBlock")
OUTCOMES = Topic("outcomes", "decisions joined to what followed", "profile", "OutcomeBlock")
CLEAN_STATE = Topic("clean-state", "event ids of the last 24 h and the books", "clean", "StateRecord", KEEP, True)
SESSIONISE_STATE = Topic("sessionise-state", "open sessions", "sessionise", "StateRecord", KEEP, True)
PROFILES = Topic("profiles", "profiles and open decisions", "profile", "StateRecord", KEEP, True)
MODELS = Topic("models", "bandits' sufficient statistics", "learn", "StateRecord", KEEP, True)

TOPICS: tuple[Topic, ...] = (
    COLLECTED,
    EVENTS,
    BAD,
    SESSIONS,
    OUTCOMES,
    CLEAN_STATE,
    SESSIONISE_STATE,
    PROFILES,
    MODELS,
)
