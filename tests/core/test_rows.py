"""Blocks become columns: complete, in order, and storable whatever they hold."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import rows
from pipeline.core.rows import Columns, LedgerRow
from schemas.block import EventBlock, Origin, OutcomeBlock, RefusedBlock, SessionBlock, Totals
from schemas.event import DropReason, Event, EventType, Refused
from schemas.outcome import Choice, DecisionLog, Outcome
from schemas.session import Session, SessionRow
from schemas.tables import EVENTS

NOW_MS = 1_790_000_000_000


def event(event_id: str = "e1", event_type: EventType = EventType.PAGE) -> Event:
    """A plain event."""
    return Event(event_id, event_type, NOW_MS, NOW_MS + 5, "shop", visitor="ann")


def block(*events: Event, places: list[int] | None = None) -> EventBlock:
    """A block of events, at these places of the collected block."""
    return EventBlock(NOW_MS, Totals(), list(range(len(events))) if places is None else places, list(events))


def dicts(columns: Columns) -> list[dict[str, object]]:
    """The rows by column name."""
    names = columns.table.column_names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.columns, strict=True)]


def outcome(clicked_ms: int = 0, action_id: str = "a1") -> Outcome:
    """What became of a decision."""
    return Outcome("d1", action_id, "top", "ann", NOW_MS, NOW_MS + 1, clicked_ms, 0, 0, 0, 0.25, 1, 0, site="shop")


def decision_log() -> DecisionLog:
    """A decision's explanation."""
    choices = [Choice("a1", 0, 0.75, campaign_id="c1")]
    return DecisionLog(
        "d1", "top", "epsilon_greedy", "m7", "5eed", choices, ["a1", "a2"], [0.75, 0.25], {"a3": "paused"}
    )


def test_every_field_of_an_event_has_a_column() -> None:
    """A field that is added to Event and forgotten here would be lost silently."""
    times = {"event_time_ms": "event_time", "received_time_ms": "received_time"}
    expected = {times.get(name, name) for name in Event.__struct_fields__}
    assert set(EVENTS.column_names) == expected | {"p", "o", "n"}


def test_an_event_keeps_its_origin_and_its_place_in_the_collected_block() -> None:
    """Its place counts the refused ones too: it is the row's identity, whatever else was in the block."""
    found = dicts(
        rows.event_columns([(Origin(3, 8), block(event(), event("e2"), places=[0, 4])), (Origin(1, 0), block())])
    )
    assert [(row["event_id"], row["p"], row["o"], row["n"]) for row in found] == [("e1", 3, 8, 0), ("e2", 3, 8, 4)]
    assert (found[0]["event_time"], found[0]["received_time"]) == (NOW_MS, NOW_MS + 5)


def test_no_blocks_are_no_rows_in_every_column() -> None:
    """The insert of nothing must be seen to be nothing."""
    empty = [
        rows.event_columns([]),
        rows.refused_columns([]),
        rows.session_columns([]),
        rows.outcome_columns([]),
        rows.decision_columns([]),
        rows.ledger_columns([], NOW_MS),
    ]
    assert [(columns.rows, len(columns.columns)) for columns in empty] == [
        (0, len(columns.table.columns)) for columns in empty
    ]


@given(st.lists(st.integers(-(2**80), 2**80)))
def test_whole_numbers_are_stored_as_the_nearest_that_fits(values: list[int]) -> None:
    """One absurd price would otherwise be refused with all its chunk, for ever."""
    found = rows.bounded(values)
    assert all(-(2**63) <= value < 2**63 for value in found)
    assert [kept for kept, given_ in zip(found, values, strict=True) if -(2**63) <= given_ < 2**63] == [
        value for value in values if -(2**63) <= value < 2**63
    ]


def test_an_absurd_price_does_not_stop_the_stream() -> None:
    """The event is stored with the greatest number there is."""
    absurd = event()
    absurd.price_micros, absurd.revenue_micros = 2**64, -(2**70)
    (row,) = dicts(rows.event_columns([(Origin(0, 0), block(absurd))]))
    assert (row["price_micros"], row["revenue_micros"]) == (2**63 - 1, -(2**63))


@given(st.binary(max_size=100))
def test_refused_bytes_are_always_readable_text(raw: bytes) -> None:
    """What was refused may be anything but text; SQL and people read it."""
    refused = Refused(2, DropReason.BAD_JSON, "detail", "e", "ann", NOW_MS, "shop", "segment", "track", raw)
    (row,) = dicts(rows.refused_columns([(Origin(0, 7), RefusedBlock(NOW_MS, [refused]))]))
    text = row["raw"]
    assert isinstance(text, str)
    assert text.encode().decode() == text
    assert (row["p"], row["o"], row["n"], row["raw_bytes"]) == (0, 7, 2, len(raw))


def test_the_raw_bytes_of_a_refused_event_are_cut() -> None:
    """The warehouse shows the beginning and the length; the topic has all."""
    refused = Refused(0, "too_large", "", "", "", NOW_MS, "shop", "segment", "track", b"x" * 40_000)
    (row,) = dicts(rows.refused_columns([(Origin(0, 0), RefusedBlock(NOW_MS, [refused]))]))
    assert (len(str(row["raw"])), row["raw_bytes"]) == (rows.RAW_BYTES_MAX, 40_000)


def test_a_session_changed_twice_by_a_block_has_its_last_state() -> None:
    """Both rows would have one version, and then either might stay."""
    changes = [
        SessionRow("ann", Session(NOW_MS, NOW_MS, events=1)),
        SessionRow("ann", Session(NOW_MS - 9, NOW_MS, events=2)),
        SessionRow("ann", Session(NOW_MS, NOW_MS, events=1), deleted=True),
    ]
    found = dicts(rows.session_columns([(Origin(0, 5), SessionBlock(NOW_MS, changes))]))
    assert [(row["start"], row["events"], row["is_deleted"], row["o"]) for row in found] == [
        (NOW_MS, 1, 1, 5),
        (NOW_MS - 9, 2, 0, 5),
    ]


def test_a_session_changed_by_two_blocks_of_a_chunk_has_one_row_under_the_later_origin() -> None:
    """Each row is absolute; the one in between would only be written to be replaced."""
    chunk = [
        (Origin(0, offset), SessionBlock(NOW_MS, [SessionRow("ann", Session(NOW_MS, NOW_MS + offset, events=offset))]))
        for offset in (5, 6)
    ]
    assert [(row["events"], row["o"]) for row in dicts(rows.session_columns(chunk))] == [(5, 5), (6, 6)]
    assert [(row["events"], row["o"]) for row in dicts(rows.session_columns(chunk, last_only=True))] == [(6, 6)]


def test_an_outcome_changed_twice_by_a_block_has_its_last_state() -> None:
    """As with sessions; another action of the decision has a row of its own."""
    changed = OutcomeBlock(NOW_MS, [outcome(), outcome(action_id="a2"), outcome(clicked_ms=NOW_MS + 2)])
    found = dicts(rows.outcome_columns([(Origin(0, 5), changed)]))
    assert [(row["action_id"], row["clicked"]) for row in found] == [("a1", NOW_MS + 2), ("a2", 0)]


def test_a_decision_event_explains_itself() -> None:
    """GET of a decision is answered from these columns."""
    decision = event(event_type=EventType.DECISION)
    decision.properties = msgspec.json.encode(decision_log()).decode()
    (row,) = dicts(rows.decision_columns([(Origin(2, 9), block(event("other"), decision))]))
    assert (row["decision_id"], row["candidates"], row["propensities"]) == ("d1", ["a1", "a2"], [0.75, 0.25])
    assert msgspec.json.decode(str(row["excluded"])) == {"a3": "paused"}
    assert msgspec.json.decode(str(row["choices"]))[0]["propensity"] == 0.75


def test_a_decision_event_that_explains_nothing_is_left_to_events() -> None:
    """Bad data is no reason to stop."""
    decision = event(event_type=EventType.DECISION)
    decision.properties = '{"decision_id": 5}'
    assert rows.decision_columns([(Origin(0, 0), block(decision, event(event_type=EventType.DECISION)))]).rows == 0


def test_a_ledger_row_carries_the_books() -> None:
    """Rows, checksum and the partition's totals up to the block."""
    (row,) = dicts(
        rows.ledger_columns([LedgerRow("events", Origin(1, 4), 7, 0xDEADBEEF, NOW_MS, (10, 7, 2, 1))], NOW_MS)
    )
    assert (row["p"], row["o"], row["rows"], row["checksum"]) == (1, 4, 7, 0xDEADBEEF)
    assert (row["received"], row["clean"], row["refused"], row["duplicate"]) == (10, 7, 2, 1)
