"""Every topic, in one list: `herald topics --apply` makes them, the docs are made from them."""

from dataclasses import dataclass

DAY_MS = 86_400_000
KEEP = -1  # no retention by time: the stage deletes what no reader can need


@dataclass(frozen=True)
class Topic:
    """One topic. Partition = that of the visitor, on every topic. retention_ms: -1 keeps until the stage trims it.

    is_compacted: the newest record of each key stays for ever, in partition 0. No stage owns it: it is made again from
    a store outside of Kafka, so no backup holds it, and a generation may have it and still be unused.
    """

    name: str
    meaning: str
    writer: str
    record: str
    retention_ms: int = 7 * DAY_MS
    is_state: bool = False
    is_compacted: bool = False


COLLECTED = Topic("collected", "events as received, and ticks", "collector, delivery", "CollectedBlock")
EVENTS = Topic("events", "clean events: one record for each collected block", "clean", "EventBlock")
BAD = Topic("bad", "refused events with raw bytes and reason", "clean", "RefusedBlock", 30 * DAY_MS)
SESSIONS = Topic("sessions", "sessions changed by a block, each in full", "sessionise", "SessionBlock")
OUTCOMES = Topic("outcomes", "decisions joined to what followed", "profile", "OutcomeBlock")
CLEAN_STATE = Topic("clean-state", "event ids of the last 24 h and the books", "clean", "StateRecord", KEEP, True)
SESSIONISE_STATE = Topic("sessionise-state", "open sessions", "sessionise", "StateRecord", KEEP, True)
PROFILES = Topic("profiles", "profiles and open decisions", "profile", "StateRecord", KEEP, True)
MODELS = Topic("models", "bandits' sufficient statistics", "learn", "StateRecord", KEEP, True)
SPEND = Topic("spend", "money reserved, settled and released; stock", "spend", "StateRecord", KEEP, True)
CAMPAIGNS = Topic("campaigns", "the marketer's objects, by `kind/id`", "campaigns", "Stored", KEEP, is_compacted=True)

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
    SPEND,
    CAMPAIGNS,
)
