"""The clean stage as a fold: every event is clean, refused or a duplicate, however the log is cut or restored."""

import json
from itertools import pairwise
from typing import Any

import msgspec
from clean_rig import HOUR_MS, NOW_MS, RULES, block, context, fold, origin, parts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.collector.gather import Gather, GatherRules
from pipeline.core.clean_stage import Clean
from pipeline.core.state import StateView
from pipeline.edge.kafka import RECORD_BYTES_MAX
from pipeline.settings import Settings
from schemas.block import CollectedBlock, Origin, Totals, encode
from schemas.event import Collected, Context, DropReason, Event, Protocol

GOOD, BAD = b'{"type":"page"}', b"{"

# raw bytes and id of one event; few ids, so that there are duplicates
sent = st.tuples(
    st.sampled_from(
        [GOOD, b'{"type":"track","event":"Order Completed","properties":{"revenue":5}}', BAD, b"[]", b'{"type":"no"}']
    ),
    st.sampled_from(["", "a", "b", "c", "d"]),
    st.sampled_from(["", "", "", DropReason.TOO_LARGE.value]),
)  # fmt: skip
logs = st.lists(sent, max_size=40)


def collected(made: list[tuple[bytes, str, str]]) -> list[Collected]:
    return [Collected(0, event_id, "ann", raw, refused) for raw, event_id, refused in made]


def cut(events: list[Collected], data: st.DataObject) -> list[list[Collected]]:
    """The same events in blocks of any size, some of them empty.

    Drawn at once: a draw for each block costs Hypothesis the square of their number.
    """
    ends = data.draw(st.lists(st.integers(0, len(events)), max_size=12).map(sorted))
    return [events[start:end] for start, end in pairwise([0, *ends, len(events)])]


@given(logs, st.data())
@settings(max_examples=100, deadline=None)
def test_what_was_received_is_clean_refused_or_a_duplicate(
    made: list[tuple[bytes, str, str]], data: st.DataObject
) -> None:
    """After every block, by the running totals and by the blocks themselves; and each row in exactly one place."""
    stage, received = fold(), 0
    stored = refused_events = 0
    for offset, events in enumerate(cut(collected(made), data)):
        clean, refused = parts(stage.apply(origin(offset), block(events)))
        received += len(events)
        stored += len(clean.events)
        refused_events += len(refused.events) if refused else 0
        totals = clean.totals
        assert (totals.received, totals.clean, totals.refused) == (received, stored, refused_events)
        assert totals.received == totals.clean + totals.refused + totals.duplicate
        assert sum(totals.refused_by_reason.values()) == totals.refused
        rows = clean.rows + [one.row for one in refused.events] if refused else clean.rows
        assert len(set(rows)) == len(rows)
        assert set(rows) <= set(range(len(events)))
        assert clean.rows == sorted(clean.rows), "order is kept"
        assert clean.block_time_ms == NOW_MS


@given(logs, st.data())
@settings(max_examples=60, deadline=None)
def test_the_events_do_not_depend_on_how_the_log_is_cut(
    made: list[tuple[bytes, str, str]], data: st.DataObject
) -> None:
    """For events that carry ids: one without is named by its place."""
    events = collected([one for one in made if one[1]])

    def run(blocks: list[list[Collected]]) -> tuple[list[Event], Totals]:
        stage, found = fold(), list[Event]()
        for offset, events in enumerate(blocks):
            found += parts(stage.apply(origin(offset), block(events)))[0].events
        return found, stage.totals

    assert run(cut(events, data)) == run([events])


@given(logs, st.data())
@settings(max_examples=60, deadline=None)
def test_a_block_done_again_after_a_kill_gives_the_same_bytes(
    made: list[tuple[bytes, str, str]], data: st.DataObject
) -> None:
    """The worker dies before or after its state record was written; the next one restores and goes on."""
    stage = fold()
    entries, fixed = dict[str, bytes](), b""
    for offset, events in enumerate(cut(collected(made), data)):
        given_block = block(events, NOW_MS + offset * HOUR_MS)
        outputs = [encode(output.block) for output in stage.apply(origin(offset), given_block).outputs]
        if data.draw(st.booleans()):
            stage = restored(entries, fixed)
            assert [encode(output.block) for output in stage.apply(origin(offset), given_block).outputs] == outputs
        puts, deletes = stage.take_changes()
        for key in deletes:
            entries.pop(key, None)
        entries.update(puts)
        fixed = stage.fixed()
        if data.draw(st.booleans()):
            stage = restored(entries, fixed)


def restored(entries: dict[str, bytes], fixed: bytes) -> Clean:
    view = StateView()
    view.entries, view.fixed = dict(entries), fixed
    return Clean(view, RULES)


def test_one_bad_event_of_a_hundred_leaves_ninety_nine_in_order() -> None:
    for bad in (0, 57, 99):
        events = [Collected(0, f"m{row}", "ann", BAD if row == bad else GOOD) for row in range(100)]
        clean, refused = parts(fold().apply(origin(0), block(events)))
        assert clean.rows == [row for row in range(100) if row != bad]
        assert [event.event_id for event in clean.events] == [f"m{row}" for row in clean.rows]
        assert refused is not None
        assert [one.row for one in refused.events] == [bad]


def test_a_refused_event_can_be_looked_at() -> None:
    given_context = context(kind="track", site="shop")
    _, refused = parts(fold().apply(origin(0), block([Collected(0, "m1", "ann", BAD)], NOW_MS, given_context)))
    assert refused is not None
    one = refused.events[0]
    assert (one.reason, one.event_id, one.visitor, one.site) == ("bad_json", "m1", "ann", "shop")
    assert (one.protocol, one.kind, one.raw, one.received_time_ms) == ("segment", "track", BAD, NOW_MS)
    assert one.detail


def test_a_tick_has_an_empty_answer() -> None:
    clean, refused = parts(fold().apply(origin(0), block([])))
    assert (clean.rows, clean.events, clean.totals, refused) == ([], [], Totals(), None)


def test_an_event_without_id_is_named_by_its_place_and_never_a_duplicate() -> None:
    stage = fold()
    events = [Collected(0, "", "ann", GOOD), Collected(0, "", "ann", GOOD)]
    named = [
        event.event_id for offset in (3, 4) for event in parts(stage.apply(origin(offset), block(events)))[0].events
    ]
    assert named == ["0-3-0", "0-3-1", "0-4-0", "0-4-1"]
    assert len(stage.seen) == 0, "what cannot come again need not be remembered"


def test_the_same_id_of_two_sites_is_two_events() -> None:
    events = [Collected(0, "m1", "ann", GOOD), Collected(1, "m1", "ann", GOOD)]
    clean, _ = parts(fold().apply(origin(0), block(events, NOW_MS, context(), context(site="other"))))
    assert len(clean.events) == 2


def test_the_id_of_a_refused_event_is_not_remembered() -> None:
    """The sender mends it and sends it again."""
    stage = fold()
    stage.apply(origin(0), block([Collected(0, "m1", "ann", BAD)]))
    clean, _ = parts(stage.apply(origin(1), block([Collected(0, "m1", "ann", GOOD)])))
    assert len(clean.events) == 1


def test_the_same_id_a_day_later_is_a_duplicate_and_two_days_later_is_not() -> None:
    stage = fold()
    event = Collected(0, "m1", "ann", GOOD)
    found = [
        len(parts(stage.apply(origin(offset), block([event], NOW_MS + hours * HOUR_MS)))[0].events)
        for offset, hours in enumerate([0, 24, 48])
    ]
    assert found == [1, 0, 1]


def test_counts_are_told_by_reason() -> None:
    bot: dict[str, Any] = {"type": "page", "context": {"userAgent": "Googlebot/2.1"}}
    events = [
        Collected(0, "a", "ann", GOOD),
        Collected(0, "a", "ann", GOOD),
        Collected(0, "b", "ann", BAD),
        Collected(0, "c", "ann", b"[]"),
        Collected(0, "d", "ann", json.dumps(bot).encode()),
    ]
    counts = fold().apply(origin(0), block(events)).counts
    assert dict(counts) == {
        ("refused", "bad_json"): 1,
        ("refused", "not_an_object"): 1,
        ("duplicate", ""): 1,
        ("bot", "crawler"): 1,
    }


def test_the_books_survive_a_restore() -> None:
    stage = fold()
    stage.apply(origin(0), block([Collected(0, "a", "ann", GOOD), Collected(0, "b", "ann", BAD)]))
    heir = restored({}, stage.fixed())
    assert heir.totals == Totals(2, 1, 1, 0, {"bad_json": 1})
    assert msgspec.msgpack.decode(heir.fixed(), type=Totals) == heir.totals


def test_all_protocols_in_one_block() -> None:
    contexts = [context(protocol) for protocol in Protocol]
    raws = [GOOD, b'{"e":"pv"}', b'{"e":"page"}', b'{"type":"impression","decision_id":"d"}']
    events = [Collected(place, f"m{place}", "ann", raw) for place, raw in enumerate(raws)]
    clean, refused = parts(fold().apply(origin(0), block(events, NOW_MS, *contexts)))
    assert refused is None
    assert [event.protocol for event in clean.events] == list(Protocol)


def test_no_block_that_the_collector_can_make_grows_past_what_the_broker_takes() -> None:
    """Addresses grow most: percent-encoded they are three times as long, and stand twice in an event and a session.

    A record that the broker refuses would stop its stage for ever: it is made again after each restart.
    """
    defaults = Settings()
    path = "界" * 2_000
    raw = msgspec.json.encode({"type": "page", "messageId": "m", "properties": {"url": f"https://a.example/{path}"}})
    gathered: Gather[object] = Gather(1, GatherRules(5, defaults.block_bytes_max, defaults.block_events_max, 1_000))
    headers = "界" * 2_048
    sender = Context(Protocol.SEGMENT, "batch", "demo", NOW_MS, NOW_MS, user_agent=headers, referrer=headers)
    first = gathered.add(0, sender, "m0", "v0", raw, "", 0)
    for number in range(1, 2_000):
        if gathered.add(0, sender, f"m{number}", f"v{number}", raw, "", 0) is not first:
            break
    block = CollectedBlock(NOW_MS, "test", first.contexts, first.events)
    assert len(encode(block)) <= RECORD_BYTES_MAX
    (output,) = Clean(StateView(), RULES).apply(Origin(0, 0), block).outputs
    assert output.rows == len(first.events) > 10
    assert len(encode(output.block)) <= RECORD_BYTES_MAX
