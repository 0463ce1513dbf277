"""What the clean stage does with each kind of bad input: kept and mended, or refused with this reason."""

import json
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec
import profile_rig
import pytest
from clean_rig import (
    DAY_MS,
    HOUR_MS,
    NOW_MS,
    RULES,
    block,
    context,
    event,
    fold,
    origin,
    outcome,
    parts,
    properties,
    raw_of,
    reason,
)
from msgspec import Struct

from pipeline.core.clean import Drop, clean
from pipeline.core.learn import Learn
from pipeline.core.raw_json import check_bounds
from pipeline.core.state import StateView
from schemas.block import Origin
from schemas.event import Collected, DropReason, Event, EventFlag, EventType, Protocol
from schemas.model import ArmStatistics, PlacementModel

TraceFunction = Callable[[FrameType, str, Any], Any]

TRACK = {"type": "track", "event": "Product Viewed", "timestamp": NOW_MS}


def with_properties(**found: Any) -> dict[str, Any]:
    return {**TRACK, "properties": found}


def with_raw(properties: bytes) -> bytes:
    return b'{"type":"track","event":"x","properties":' + properties + b"}"


def nested(depth: int) -> dict[str, Any]:
    """An event whose deepest container is so many levels down; the event itself is level 1."""
    inner: Any = []
    for _ in range(depth - 3):
        inner = [inner]
    return {**TRACK, "properties": {"a": inner}}


REFUSED: list[tuple[str, object, DropReason]] = [
    ("no bytes", b"", DropReason.BAD_JSON),
    ("not JSON", b"hello", DropReason.BAD_JSON),
    ("a form", b"type=track&event=x", DropReason.BAD_JSON),
    ("truncated", raw_of(TRACK)[:-1], DropReason.BAD_JSON),
    ("truncated in a text", b'{"type":"tra', DropReason.BAD_JSON),
    ("something behind it", raw_of(TRACK) + b"x", DropReason.BAD_JSON),
    ("two objects", raw_of(TRACK) * 2, DropReason.BAD_JSON),
    ("a byte order mark", b"\xef\xbb\xbf" + raw_of(TRACK), DropReason.BAD_JSON),
    ("UTF-16 with a mark", '{"type":"page"}'.encode("utf-16"), DropReason.BAD_JSON),
    ("UTF-16 without a mark", '{"type":"page"}'.encode("utf-16-le"), DropReason.BAD_JSON),
    ("UTF-32", '{"type":"page"}'.encode("utf-32"), DropReason.BAD_JSON),
    ("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00", DropReason.BAD_JSON),
    ("a NUL byte in a text", b'{"type":"pa\x00ge"}', DropReason.BAD_JSON),
    ("single quotes", b"{'type':'page'}", DropReason.BAD_JSON),
    ("a trailing comma", b'{"type":"page",}', DropReason.BAD_JSON),
    ("a list", b"[]", DropReason.NOT_AN_OBJECT),
    ("a text", b'"page"', DropReason.NOT_AN_OBJECT),
    ("a number", b"1", DropReason.NOT_AN_OBJECT),
    ("null", b"null", DropReason.NOT_AN_OBJECT),
    ("NaN", with_raw(b'{"price":NaN}'), DropReason.BAD_TYPE),
    ("Infinity", with_raw(b'{"a":[-Infinity]}'), DropReason.BAD_TYPE),
    ("1e999", with_raw(b'{"price":1e999}'), DropReason.BAD_TYPE),
    ("1e999 where no field is", with_raw(b'{"a":1e999}'), DropReason.BAD_TYPE),
    ("2^63", with_raw(b'{"a":9223372036854775808}'), DropReason.BAD_TYPE),
    ("-2^64", with_raw(b'{"a":{"b":[-18446744073709551616]}}'), DropReason.BAD_TYPE),
    ("400 digits", with_raw(b'{"a":' + b"9" * 400 + b"}"), DropReason.BAD_TYPE),
    ("5,000 digits", with_raw(b'{"a":' + b"9" * 5_000 + b"}"), DropReason.BAD_TYPE),
    ("a price that is none", with_properties(price="cheap"), DropReason.BAD_TYPE),
    ("a price of NaN as text", with_properties(price="NaN"), DropReason.BAD_TYPE),
    ("a price of 1e999 as text", with_properties(price="1e999"), DropReason.BAD_TYPE),
    ("a price with a comma", with_properties(price="12,50"), DropReason.BAD_TYPE),
    ("a price above a milliard", with_properties(price=1_000_000_000.01), DropReason.BAD_TYPE),
    ("a price that is true", with_properties(price=True), DropReason.BAD_TYPE),
    ("a quantity that is true", with_properties(quantity=True), DropReason.BAD_TYPE),
    ("half a piece", with_properties(quantity=1.5), DropReason.BAD_TYPE),
    ("a product id that is a list", with_properties(product_id=["a"]), DropReason.BAD_TYPE),
    ("a product id of 257 characters", with_properties(product_id="x" * 257), DropReason.BAD_TYPE),
    ("a currency that is none", with_properties(currency="dollars and cents"), DropReason.BAD_TYPE),
    ("a name that is an object", {"type": "track", "event": {"a": 1}}, DropReason.BAD_TYPE),
    ("17 levels", nested(17), DropReason.TOO_COMPLEX),
    ("17 levels of nothing", with_raw(b"[" * 15 + b"{}" + b"]" * 15), DropReason.TOO_COMPLEX),
    ("30,000 levels", with_raw(b"[" * 30_000 + b"]" * 30_000), DropReason.TOO_COMPLEX),
    ("257 keys", with_properties(**{f"k{number}": 1 for number in range(253)}), DropReason.TOO_COMPLEX),
    ("257 keys in 16 objects", with_properties(a=[{str(n): 1 for n in range(18)}] * 15), DropReason.TOO_COMPLEX),
    ("a key of 129 bytes", with_properties(**{"k" * 129: 1}), DropReason.TOO_COMPLEX),
    ("a key of 129 bytes deep down", with_properties(a=[{"b": {"k" * 129: 1}}]), DropReason.TOO_COMPLEX),
    ("a key of 65 letters of two bytes", with_properties(**{"ü" * 65: 1}), DropReason.TOO_COMPLEX),
    ("5,001 values", with_properties(a=[1] * 5_000), DropReason.TOO_COMPLEX),
    ("no such type", {"type": "teleport"}, DropReason.UNKNOWN_TYPE),
    ("no type at all", {}, DropReason.UNKNOWN_TYPE),
    ("a type that is an object", {"type": {"a": 1}}, DropReason.UNKNOWN_TYPE),
    ("a decision not by us", {"type": "decision"}, DropReason.UNKNOWN_TYPE),
    ("a reward for nothing", {"type": "track", "event": "reward"}, DropReason.MISSING_FIELD),
    ("401 days ago", {**TRACK, "timestamp": NOW_MS - 401 * DAY_MS}, DropReason.TOO_OLD),
    ("before 1970", {**TRACK, "timestamp": "1969-12-31T23:59:59Z"}, DropReason.TOO_OLD),
]


@pytest.mark.parametrize(("message", "expected"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_it_is_refused_with_this_reason(message: object, expected: DropReason) -> None:
    found = outcome(message)
    assert isinstance(found, Drop), found
    assert found.reason is expected
    assert len(found.detail) < 600
    assert found.detail


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'"a\\ud800b"', "a\ufffdb"),
        (b'"a\\udc00\\ud800b"', "a\ufffd\ufffdb"),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"a\\u0000b"', "a\ufffdb"),
        (b'"\\\\u0000"', "\\u0000"),
        (b'"a\xc0\x80b"', "a\ufffd\ufffdb"),
        (b'"a\xed\xa0\x80b"', "a\ufffd\ufffd\ufffdb"),
        (b'"a\xffb"', "a\ufffdb"),
    ],
)
def test_text_that_is_no_text_is_kept_with_a_replacement_character(sent: bytes, kept: str) -> None:
    found = event(with_raw(b'{"brand":' + sent + b',"deep":[{"a":' + sent + b"}]}"))
    assert found.brand == kept
    assert properties(found) == {"deep": [{"a": kept}]}
    assert event(with_raw(b'{"brand":' + sent + b',"deep":[{"a":' + sent + b"}]}")) == found


@pytest.mark.parametrize("key", [b'"__proto__"', b'"\\u005f_proto__"', b'"__prot\\u006f__"'])
def test_a_key_that_sets_a_prototype_is_dropped(key: bytes) -> None:
    found = event(with_raw(b"{" + key + b':{"admin":true},"deep":[{' + key + b':1,"kept":2}]}'))
    assert properties(found) == {"deep": [{"kept": 2}]}


def test_a_key_that_sets_a_prototype_is_dropped_from_json_inside_of_text() -> None:
    found = event({"e": "custom", "p": '{"__proto__":{"a":1},"b":2}'}, Protocol.PIXEL)
    assert properties(found) == {"b": 2}


def test_of_equal_keys_the_last_one_wins() -> None:
    found = event(b'{"type":"page","type":"track","event":"click","properties":{"brand":"a","brand":"b"}}')
    assert (found.event_type, found.brand) == ("click", "b")


def test_a_number_sent_as_text_is_corrected_and_flagged() -> None:
    found = event(with_properties(quantity="1", price="12.50"))
    assert (found.quantity, found.price_micros) == (1, 12_500_000)
    assert found.flags == EventFlag.TYPE_CORRECTED


def test_a_label_sent_as_a_number_is_corrected_and_flagged() -> None:
    found = event(with_properties(product_id=42, category=7.0, brand=True))
    assert (found.product_id, found.category, found.brand) == ("42", "7", "true")
    assert found.flags == EventFlag.TYPE_CORRECTED


def test_right_types_and_protocols_of_text_alone_are_not_flagged() -> None:
    assert event(with_properties(quantity=1, price=12.5, product_id="42")).flags == 0
    assert event({"e": "purchase", "q": "1", "pr": "12.50", "ts": str(NOW_MS)}, Protocol.PIXEL).flags == 0


def test_what_is_just_within_bounds_is_kept() -> None:
    for kept in (
        nested(16)["properties"],
        {f"k{number}": 1 for number in range(252)},
        {"k" * 128: 1, "ü" * 64: 2},
        {"a": [1] * 4_990},
        {"a": 2**63 - 1, "b": -(2**63 - 1)},
    ):
        assert properties(event(with_properties(**kept))) == kept
    found = event(with_properties(product_id="x" * 256, price=1_000_000_000))
    assert (found.product_id, found.price_micros) == ("x" * 256, 10**15)


def test_long_texts_are_cut_not_refused() -> None:
    found = event(
        {**with_properties(title="x" * 5_000), "context": {"page": {"url": "https://a.example/" + "y" * 20_000}}}
    )
    assert len(found.title) == 1_024
    assert found.url.startswith("https://a.example/yyy")


@pytest.mark.parametrize("stated", [None, "", "yesterday", "2024-13-01", {}, [], True, 0, -5, 1e300, "9" * 400])
def test_a_time_that_is_missing_or_none_is_the_received_time_with_a_flag(stated: object) -> None:
    found = event({**TRACK, "timestamp": stated})
    assert found.event_time_ms == NOW_MS
    assert found.flags == EventFlag.TIME_MISSING


def test_an_event_that_says_no_time_is_flagged() -> None:
    assert event({"type": "page"}).flags == EventFlag.TIME_MISSING


def test_a_time_in_the_future_is_clamped_with_a_flag() -> None:
    found = event({**TRACK, "timestamp": NOW_MS + HOUR_MS + 1})
    assert (found.event_time_ms, found.flags) == (NOW_MS, EventFlag.TIME_CLAMPED)
    found = event({**TRACK, "timestamp": NOW_MS + HOUR_MS})
    assert (found.event_time_ms, found.flags) == (NOW_MS + HOUR_MS, 0)


def test_an_event_of_exactly_the_largest_age_is_kept() -> None:
    assert event({**TRACK, "timestamp": NOW_MS - 400 * DAY_MS}).event_time_ms == NOW_MS - 400 * DAY_MS
    assert reason({**TRACK, "timestamp": NOW_MS - 400 * DAY_MS - 1}) is DropReason.TOO_OLD


@pytest.mark.parametrize(
    ("skew_ms", "corrected"),
    [(9_999, False), (10_000, True), (-10_000, True), (DAY_MS, True), (-DAY_MS, True), (DAY_MS + 1, False)],
)
def test_a_client_clock_that_is_wrong_is_corrected_by_what_it_said_when_sending(skew_ms: int, corrected: bool) -> None:
    """The clock is wrong by skew_ms; the event happened a minute before it was sent."""
    found = event({**TRACK, "timestamp": NOW_MS - 60_000 - skew_ms}, sent_time_ms=NOW_MS - skew_ms)
    assert bool(found.flags & EventFlag.SKEW_CORRECTED) is corrected
    if corrected:
        assert found.event_time_ms == NOW_MS - 60_000


@pytest.mark.parametrize(
    "user_id",
    ["null", "undefined", "NaN", "guest", "Anonymous", " none ", "0000", "00000000-0000-0000-0000-000000000000",
     "[object Object]",     "x" * 129, "ü" * 65, 0, False, {"a": 1}, [1]],
)  # fmt: skip
def test_an_id_that_names_nobody_is_dropped_and_the_event_kept(user_id: object) -> None:
    found = event({**TRACK, "userId": user_id})
    assert found.user_id == ""
    assert found.flags == EventFlag.IDENTITY_DROPPED


def test_a_visitor_id_that_names_nobody_is_flagged() -> None:
    """The collector leaves it out (or takes its cookie); here it is said that one was sent."""
    assert event({**TRACK, "anonymousId": "undefined"}, visitor="").flags == EventFlag.IDENTITY_DROPPED
    assert event({**TRACK, "anonymousId": "ann"}).flags == 0
    assert event({"e": "pv", "duid": "null"}, Protocol.SNOWPLOW).flags & EventFlag.IDENTITY_DROPPED
    assert event({"e": "page", "v": "0000"}, Protocol.PIXEL).flags & EventFlag.IDENTITY_DROPPED


def test_without_consent_no_id_is_kept_or_spoken_of() -> None:
    found = event({**TRACK, "userId": "null"}, visitor="", no_consent=True)
    assert (found.user_id, found.visitor, found.flags) == ("", "", EventFlag.NO_CONSENT)


@pytest.mark.parametrize("refused", [found.value for found in DropReason])
def test_what_was_refused_at_the_door_keeps_its_reason(refused: str) -> None:
    found = clean(Collected(0, "m1", "ann", b"{", refused), context(), RULES)
    assert isinstance(found, Drop)
    assert found.reason == refused


def test_a_reason_that_a_newer_collector_gave_is_no_crash() -> None:
    found = clean(Collected(0, "m1", "ann", b"{}", "too_purple"), context(), RULES)
    assert isinstance(found, Drop)
    assert (found.reason, "too_purple" in found.detail) == (DropReason.BAD_PAYLOAD, True)


BAD_WRAPPING: list[tuple[str, Protocol, dict[str, Any]]] = [
    ("ue_pr missing", Protocol.SNOWPLOW, {"e": "ue"}),
    ("ue_pr no JSON", Protocol.SNOWPLOW, {"e": "ue", "ue_pr": "{"}),
    ("ue_pr a list", Protocol.SNOWPLOW, {"e": "ue", "ue_pr": "[]"}),
    ("ue_pr a number", Protocol.SNOWPLOW, {"e": "ue", "ue_pr": 5}),
    ("ue_pr without data", Protocol.SNOWPLOW, {"e": "ue", "ue_pr": '{"schema":"iglu:a/b/c/1"}'}),
    ("ue_pr without a name", Protocol.SNOWPLOW, {"e": "ue", "ue_pr": '{"data":{"schema":"x","data":{}}}'}),
    ("ue_pr too deep to read", Protocol.SNOWPLOW, {"e": "ue", "ue_pr": "[" * 9_000 + "]" * 9_000}),
    ("p no JSON", Protocol.PIXEL, {"p": "{"}),
    ("p a list", Protocol.PIXEL, {"p": "[]"}),
    ("p with NaN", Protocol.PIXEL, {"p": '{"a":NaN}'}),
    ("p too deep to read", Protocol.PIXEL, {"p": "[" * 9_000 + "]" * 9_000}),
]


@pytest.mark.parametrize(
    ("protocol", "message"), [row[1:] for row in BAD_WRAPPING], ids=[row[0] for row in BAD_WRAPPING]
)
def test_a_wrapping_that_does_not_open_is_a_bad_payload(protocol: Protocol, message: dict[str, Any]) -> None:
    assert reason(message, protocol) is DropReason.BAD_PAYLOAD


def test_what_is_wrapped_has_the_same_bounds() -> None:
    deep = "{" + '"a":{' * 20 + "}" * 20 + "}"
    assert reason({"p": deep}, Protocol.PIXEL) is DropReason.TOO_COMPLEX
    wrapped = '{"data":{"schema":"iglu:a/b/jsonschema/1-0-0","data":' + deep + "}}"
    assert reason({"e": "ue", "ue_pr": wrapped}, Protocol.SNOWPLOW) is DropReason.TOO_COMPLEX
    assert reason({"p": '{"a":' + "9" * 30 + "}"}, Protocol.PIXEL) is DropReason.BAD_TYPE


def steps_of(message: object) -> int:
    """How many bytecodes the check of the bounds runs: unlike its time, the same on every machine, however busy."""
    steps = 0

    def count(frame: FrameType, event: str, argument: object) -> TraceFunction:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += event == "opcode"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        check_bounds(message)
    finally:
        sys.settrace(before)
    return steps


HOSTILE: dict[str, Callable[[int], object]] = {
    "many lists": lambda size: {"a": [[]] * size},
    "many objects": lambda size: {"a": [{}] * size},
    "many keys": lambda size: {str(number): 1 for number in range(size)},
    "many long keys": lambda size: {f"{number}{'k' * 100}": 1 for number in range(size)},
    "many numbers": lambda size: {"a": [2**62] * size},
    "lists in lists": lambda size: {"a": [[[[[[]]]]]] * (size // 5)},
    "one deep list": lambda size: json.loads("[" * min(size, 900) + "]" * min(size, 900)),
    "wide at every level": lambda size: json.loads('{"a":[' * 8 + "1," * size + "1" + "]}" * 8),
}


@pytest.mark.parametrize("shape", HOSTILE)
def test_the_bounds_are_cheap_to_check(shape: str) -> None:
    """The work grows with the event's length at most, and never past what the largest event that is read allows."""
    small, large = steps_of(HOSTILE[shape](2_000)), steps_of(HOSTILE[shape](16_000))
    assert small > 0
    assert large <= 9 * small
    assert large <= 60 * 16_000


def test_the_count_of_steps_sees_work_that_grows_with_the_square() -> None:
    """Sixteen thousand pairs are looked at where a thousand values are: the test above would notice."""
    assert steps_of({"a": [1] * 1_000}) < steps_of({"a": [1] * 2_000}) <= 3 * steps_of({"a": [1] * 1_000})


# --- what was sent is kept --------------------------------------------------------------------------------------------


def test_the_time_that_a_client_stated_is_kept_beside_the_corrected_one() -> None:
    stated = NOW_MS - 60_000 - HOUR_MS
    found = event({**TRACK, "timestamp": stated}, sent_time_ms=NOW_MS - HOUR_MS)
    assert (found.stated_time_ms, found.event_time_ms) == (stated, NOW_MS - 60_000)
    found = event({**TRACK, "timestamp": NOW_MS + DAY_MS})
    assert (found.stated_time_ms, found.event_time_ms) == (NOW_MS + DAY_MS, NOW_MS)
    assert event({**TRACK, "timestamp": "garbage"}).stated_time_ms == 0
    assert event({"type": "page"}).stated_time_ms == 0
    assert event({"e": "page", "ts": str(NOW_MS - 5)}, Protocol.PIXEL).stated_time_ms == NOW_MS - 5
    assert event({"e": "pv", "dtm": str(NOW_MS - 7)}, Protocol.SNOWPLOW).stated_time_ms == NOW_MS - 7


@pytest.mark.parametrize("size", [1, 4_097, 32_768])
def test_a_refused_event_keeps_every_byte(size: int) -> None:
    raw = b"x" * size
    _, refused = parts(fold().apply(origin(0), block([Collected(0, "m1", "ann", raw)])))
    assert refused is not None
    assert [one.raw for one in refused.events] == [raw]


class EventOfYesterday(Struct, array_like=True):
    """The first five fields, as an older worker reads them, and one that was last then."""

    event_id: str
    event_type: str
    event_time_ms: int
    received_time_ms: int
    site: str


def test_an_event_with_a_stated_time_is_read_by_older_code_and_an_older_event_by_this_one() -> None:
    found = event({**TRACK, "timestamp": NOW_MS - 5})
    packed = msgspec.msgpack.encode(found)
    assert msgspec.msgpack.decode(packed, type=EventOfYesterday).event_id == "m1"
    fields = msgspec.msgpack.decode(packed)
    assert Event.__struct_fields__[-1] == "stated_time_ms"
    older = msgspec.msgpack.decode(msgspec.msgpack.encode(fields[:-1]), type=Event)
    assert (older.stated_time_ms, older.event_time_ms) == (0, NOW_MS - 5)


# --- rewards that nobody is owed --------------------------------------------------------------------------------------

UNPAID: dict[str, list[Event]] = {
    "a reward without a decision": [profile_rig.event(EventType.REWARD, 10, score=1.0)],
    "a reward of a decision that never was": [profile_rig.event(EventType.REWARD, 10, decision_id="f" * 32, score=1.0)],
    "a click past its window": [profile_rig.click(profile_rig.CLICK_WINDOW_MS + 1)],
    "a reward past its window": [
        profile_rig.event(EventType.REWARD, profile_rig.CONVERSION_WINDOW_MS + 6, decision_id=profile_rig.ID, score=1.0)
    ],
    "a click of an action that was not chosen": [profile_rig.click(10, action_id="other")],
}


@pytest.mark.parametrize("row", UNPAID, ids=lambda row: row.replace(" ", "_"))
def test_a_reward_that_nobody_is_owed_is_counted_and_teaches_nothing(row: str) -> None:
    """The model after it is the model before it, to the byte."""
    before = [profile_rig.decision(), profile_rig.click(5)]
    plain = profile_rig.tell(before)
    story = profile_rig.tell(before, UNPAID[row], [])
    assert story.told() == plain.told() == {(profile_rig.ID, "a"): (1, 400_000)}
    assert models_of(story) == models_of(plain) != {}
    counts = profile_rig.tell(before, UNPAID[row], [late()]).counts
    assert sum(count for (what, _), count in counts.items() if what == "unknown_decision") == 1


def test_a_token_that_is_used_again_pays_once() -> None:
    once = profile_rig.tell([profile_rig.decision(), profile_rig.click(5)])
    twice = profile_rig.tell(
        [profile_rig.decision(), profile_rig.click(5)], [profile_rig.click(5)], [profile_rig.click(9)]
    )
    assert models_of(twice) == models_of(once)
    assert twice.told() == once.told() == {(profile_rig.ID, "a"): (1, 400_000)}


def late() -> Event:
    """An event long after everything: what waited for its decision has waited long enough."""
    return profile_rig.event(EventType.PAGE, 10 * profile_rig.CONVERSION_WINDOW_MS, "bob")


def models_of(story: profile_rig.Story) -> dict[str, ArmStatistics]:
    """What the learner makes of a story: the arms of its placement."""
    fold = Learn(StateView())
    for offset, found in enumerate(story.blocks):
        fold.apply(Origin(0, offset), found)
    puts, _ = fold.take_changes()
    models = {key: msgspec.msgpack.decode(raw, type=PlacementModel) for key, raw in puts}
    return dict(models["home"].arms) if "home" in models else {}
