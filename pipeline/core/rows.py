"""Blocks -> columns for the warehouse, one function a table. The last step before the insert; pure and deterministic.

Columns, not rows: the driver sends columns, and 48 list comprehensions over structs cost a third of building a tuple
an event and turning them round. Measured per event: 2 us here, 3 us in the driver. Times stay integers (ms): the
driver takes them as they are, while a datetime each would cost more than all the rest.
"""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from pipeline.core.whole import INT64_MAX as INT64_MAX
from pipeline.core.whole import bounded as bounded
from pipeline.core.whole import fitting
from schemas.block import EventBlock, Origin, OutcomeBlock, RefusedBlock, SessionBlock
from schemas.ddl import Table
from schemas.event import Event, EventType
from schemas.outcome import Choice, DecisionLog, Outcome
from schemas.session import SessionRow
from schemas.tables import BAD, BLOCKS, DECISIONS, EVENTS, OUTCOMES, SESSIONS

RAW_BYTES_MAX = 4_096
"""What the table `bad` shows of a refused event; the topic of that name has all of it."""

_TIMES_OF_EVENTS = {"event_time": "event_time_ms", "received_time": "received_time_ms"}
_EVENT_FIELDS = tuple(
    attrgetter(_TIMES_OF_EVENTS.get(name, name)) for name in EVENTS.column_names if name not in ("p", "o", "n")
)
_WHOLE = frozenset(index for index, column in enumerate(EVENTS.columns) if column.type == "Int64")
_json = msgspec.json.Encoder(order="deterministic")
_decision_log = msgspec.json.Decoder(DecisionLog)
_APPENDED = {
    field.name: field.default for field in msgspec.structs.fields(Choice)[Choice.__struct_fields__.index("goals") :]
}
"""Fields of a choice that its rows have only where they say something, with what says nothing."""


class Columns(NamedTuple):
    """Rows of one table, column by column, in the order of table.column_names."""

    table: Table
    columns: list[Sequence[object]]

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.columns[0])


class LedgerRow(NamedTuple):
    """One applied block. checksum: crc32 of the record. totals: received, clean, refused, duplicate up to it."""

    topic: str
    origin: Origin
    rows: int
    checksum: int
    block_time_ms: int
    totals: tuple[int, int, int, int] = (0, 0, 0, 0)


def event_columns(blocks: Iterable[tuple[Origin, EventBlock]]) -> Columns:
    """Return the rows of `events`: each event with its origin.

    Whole numbers beyond 64 bits become the nearest that fit: an absurd price must not stop the stream.
    """
    events: list[Event] = []
    partitions: list[int] = []
    offsets: list[int] = []
    places: list[int] = []
    for origin, block in blocks:
        count = len(block.events)
        events += block.events
        partitions += [origin.partition] * count
        offsets += [origin.offset] * count
        places += block.rows
    columns: list[Sequence[object]] = []
    for index, field in enumerate(_EVENT_FIELDS):
        values = list(map(field, events))
        columns.append(bounded(values) if index in _WHOLE else values)
    return Columns(EVENTS, [*columns, partitions, offsets, places])


def refused_columns(blocks: Iterable[tuple[Origin, RefusedBlock]]) -> Columns:
    """Return the rows of `bad`: each refused event with its reason, its raw bytes cut and made readable."""
    rows = [(origin, event) for origin, block in blocks for event in block.events]
    return _turned(
        BAD,
        [
            (
                event.site,
                event.reason,
                event.received_time_ms,
                event.detail,
                event.event_id,
                event.visitor,
                event.protocol,
                event.kind,
                event.raw[:RAW_BYTES_MAX].decode("utf-8", "backslashreplace"),
                len(event.raw),
                origin.partition,
                origin.offset,
                event.row,
            )
            for origin, event in rows
        ],
    )


def session_columns(blocks: Iterable[tuple[Origin, SessionBlock]], *, last_only: bool = False) -> Columns:
    """Return the rows of `sessions`: each change in full; a name that is void has a row that says so.

    A session that one block changed twice has its last state only: both rows would have the same version.
    last_only: so has one that several of these blocks changed. Rows are absolute: those before would be replaced.
    """
    newest: dict[tuple[int, int, str, int, str], tuple[Origin, SessionRow]] = {}
    for origin, block in blocks:
        offset = -1 if last_only else origin.offset
        for row in block.sessions:
            name = (row.visitor, row.session.start_ms, row.session.stray_id)
            newest[origin.partition, offset, *name] = origin, row
    return _turned(SESSIONS, [_session(origin, row) for origin, row in newest.values()])


def _session(origin: Origin, row: SessionRow) -> tuple[object, ...]:
    session = row.session
    return (
        row.visitor,
        session.start_ms,
        session.stray_id,
        session.end_ms,
        session.site,
        session.landing[2],
        session.exit[2],
        *session.source[2:],
        session.device,
        session.events,
        session.pages,
        session.impressions,
        session.clicks,
        session.conversions,
        session.purchases,
        fitting(session.revenue_micros),
        session.late_events,
        int(session.is_bot),
        int(session.closed),
        origin.partition,
        origin.offset,
        int(row.deleted),
    )


def outcome_columns(blocks: Iterable[tuple[Origin, OutcomeBlock]], *, last_only: bool = False) -> Columns:
    """Return the rows of `outcomes`: each decision and action with what is known of it now, absolute, never a delta.

    An action that one block changed twice has its last state only; last_only: as in `session_columns`.
    """
    newest: dict[tuple[int, int, str, str], tuple[Origin, Outcome]] = {}
    for origin, block in blocks:
        offset = -1 if last_only else origin.offset
        for outcome in block.outcomes:
            newest[origin.partition, offset, outcome.decision_id, outcome.action_id] = origin, outcome
    return _turned(OUTCOMES, [_outcome(origin, outcome) for origin, outcome in newest.values()])


def _outcome(origin: Origin, outcome: Outcome) -> tuple[object, ...]:
    return (
        outcome.decision_id,
        outcome.action_id,
        outcome.decided_ms,
        outcome.site,
        outcome.placement_id,
        outcome.campaign_id,
        outcome.creative_id,
        outcome.visitor,
        outcome.impressed_ms,
        outcome.clicked_ms,
        outcome.conversions,
        fitting(outcome.revenue_micros),
        fitting(outcome.reward_micros),
        outcome.propensity,
        outcome.policy,
        outcome.model_version,
        int(outcome.is_bot),
        outcome.line_id,
        outcome.pays_for,
        fitting(outcome.price_micros),
        fitting(outcome.value_micros),
        outcome.chosen_by,
        outcome.group_propensity if outcome.chosen_by else 0.0,  # as the rows have it that are older than the column
        outcome.send_ms,
        fitting(outcome.rank),
        ("no", "yes")[outcome.has_paid] if outcome.pays_for else "",
        outcome.rewarded_ms,
        origin.partition,
        origin.offset,
    )


def decision_columns(blocks: Iterable[tuple[Origin, EventBlock]]) -> Columns:
    """Return the rows of `decisions`: the explanation that each decision event carries.

    A decision event whose properties are no DecisionLog explains nothing: it stands in `events` only.
    """
    rows: list[tuple[object, ...]] = []
    for origin, block in blocks:
        for event in block.events:
            if event.event_type == EventType.DECISION:
                rows += _decision(origin, event)
    return _turned(DECISIONS, rows)


def _decision(origin: Origin, event: Event) -> list[tuple[object, ...]]:
    try:
        log = _decision_log.decode(event.properties)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return []
    return [
        (
            log.decision_id,
            event.event_time_ms,
            event.site,
            event.visitor,
            log.placement_id,
            log.policy,
            log.model_version,
            log.seed,
            _text([_choice(choice) for choice in log.choices]),
            log.candidates,
            log.propensities,
            _text(log.excluded),
            _text(log.context),
            _text(log.features),
            log.degraded,
            log.scores,
            _text(log.rules) if log.rules else "",  # as the rows have it that are older than the column
            "" if log.group is UNSET else log.group.placement_id,
            "" if log.group is UNSET else _text(log.group),
            origin.partition,
            origin.offset,
        )
    ]


def _choice(choice: msgspec.Struct) -> dict[str, object]:
    """By name, though it travels as an array: people and SQL read this.

    What was appended since is left out where it says nothing, as the rows have it that are older.
    """
    found = {name: getattr(choice, name) for name in choice.__struct_fields__}
    return {name: value for name, value in found.items() if name not in _APPENDED or value != _APPENDED[name]}


def _text(value: object) -> str:
    return _json.encode(value).decode()


def ledger_columns(rows: Iterable[LedgerRow], applied_time_ms: int) -> Columns:
    """Return the rows of `blocks`, applied at applied_time_ms by the writer's clock."""
    return _turned(
        BLOCKS,
        [
            (row.topic, *row.origin, row.rows, row.checksum, 0, row.block_time_ms, applied_time_ms, *row.totals)
            for row in rows
        ],
    )  # fmt: skip


def _turned(table: Table, rows: list[tuple[object, ...]]) -> Columns:
    if not rows:
        return Columns(table, [[] for _ in table.columns])
    return Columns(table, list(zip(*rows, strict=True)))
