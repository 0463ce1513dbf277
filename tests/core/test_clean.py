"""Laws of cleaning one event: it never raises, never changes what it was given, and knows nothing but the event."""

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from clean_rig import BROWSER, NOW_MS, RULES, context, event, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.adapt import ADAPTERS, PIXEL_FIELDS, SECOND_NAMES, SEGMENT_PROPERTIES, SNOWPLOW_FIELDS, BadPayload
from pipeline.core.clean import STEPS, Drop, clean
from schemas.event import Collected, Context, DropReason, Event, EventFlag, EventType, Protocol
from schemas.incoming import INCOMING

numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 2**63, 1e308, 12.5])
texts = st.text(max_size=12) | st.sampled_from(
    ["", "null", "\0", "\ud800", "12.50", "NaN", "1e999", "2024-01-01T00:00:00Z", str(NOW_MS), "{",
     "[]", '{"a":1}', "x" * 2_000]
)  # fmt: skip
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))


def objects(names: Any, inner: Any = values) -> Any:
    """Objects with a protocol's own keys, right and wrong values, and some other keys."""
    return st.dictionaries(st.sampled_from(sorted(names)) | texts, inner, max_size=12)


properties = objects({*SEGMENT_PROPERTIES, *SECOND_NAMES, "total", "value", "position", "products", "__proto__"})
segment = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["track", "page", "identify", "screen", "group", "alias", "decision"]) | values,
        "event": st.sampled_from(["Order Completed", "Promotion Viewed", "Ad Spend", "reward"]) | values,
        "properties": properties | values,
        "traits": properties,
        "timestamp": values,
        "originalTimestamp": values,
        "userId": values,
        "anonymousId": values,
        "context": objects({"userAgent", "locale"})
        | st.fixed_dictionaries({"page": objects({"url", "title"}), "campaign": objects({"source", "id"})}),
    },
)
wrapped = st.builds(
    lambda data: json.dumps({"data": {"schema": "iglu:a/ad_click/jsonschema/1", "data": data}}), properties
)
snowplow = st.builds(
    lambda code, more, inner: {**more, "e": code, "ue_pr": inner},
    st.sampled_from(["pv", "pp", "se", "ue", "tr", "ti"]) | values,
    objects({*SNOWPLOW_FIELDS, "dtm", "ttm", "se_ca", "se_ac", "se_la", "se_pr", "se_va", "tr_id", "duid"}),
    wrapped | values,
)
pixel = objects({*PIXEL_FIELDS, "v", "p"})
herald = objects({"type", "event_time_ms", "decision_id", "placement_id", "reward", "value_micros", "properties"})
messages = {
    Protocol.SEGMENT: segment,
    Protocol.SNOWPLOW: snowplow,
    Protocol.PIXEL: pixel,
    Protocol.HERALD: herald,
}
protocols = pytest.mark.parametrize("protocol", list(Protocol))


def check(raw: bytes, protocol: Protocol) -> Event | Drop:
    """Clean raw bytes and hold the result against what the rest of the pipeline relies on."""
    given_event, given_context = Collected(0, "m1", "ann", raw), context(protocol)
    before = msgspec.msgpack.encode((given_event, given_context))
    found = clean(given_event, given_context, RULES)
    assert msgspec.msgpack.encode((given_event, given_context)) == before, "what was given is as it was"
    assert clean(given_event, given_context, RULES) == found, "the same again"
    if isinstance(found, Drop):
        assert isinstance(found.reason, DropReason)
        found.detail.encode("utf-8", "strict")
        return found
    packed = msgspec.msgpack.encode(found)
    assert msgspec.msgpack.decode(packed, type=Event) == found, "it can be written and read"
    assert b"\0" not in found.properties.encode()
    if found.properties:
        assert isinstance(msgspec.json.decode(found.properties), dict)
    assert NOW_MS - RULES.age_max_ms <= found.event_time_ms <= NOW_MS + RULES.future_max_ms
    assert all(abs(money) <= 10**15 for money in (found.price_micros, found.revenue_micros, found.cost_micros))
    assert len(found.user_id) <= 128
    return found


@protocols
@given(raw=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_cleaned_or_refused(protocol: Protocol, raw: bytes) -> None:
    check(raw, protocol)


@protocols
@given(value=values)
@settings(max_examples=60, deadline=None)
def test_any_json_is_cleaned_or_refused(protocol: Protocol, value: Any) -> None:
    check(json.dumps(value).encode(), protocol)


@protocols
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_any_message_of_a_protocol_is_cleaned_or_refused(protocol: Protocol, data: st.DataObject) -> None:
    check(json.dumps(data.draw(messages[protocol])).encode(), protocol)


@protocols
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_message_that_was_cut_or_altered_is_cleaned_or_refused(protocol: Protocol, data: st.DataObject) -> None:
    raw = bytearray(json.dumps(data.draw(messages[protocol])).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(raw[: data.draw(st.integers(0, len(raw)))]), protocol)


@protocols
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_an_adapter_changes_nothing_of_the_message(protocol: Protocol, data: st.DataObject) -> None:
    message = data.draw(messages[protocol])
    before = json.dumps(message)
    with suppress(BadPayload):
        ADAPTERS[protocol](message, context(protocol))
    assert json.dumps(message) == before


PURCHASE = {
    "type": "track",
    "event": "Order Completed",
    "timestamp": NOW_MS - 5,
    "userId": "u1",
    "properties": {"product_id": "p1", "price": 12.5, "revenue": 25, "currency": "eur", "quantity": 2, "colour": "red"},
    "context": {"page": {"url": "https://shop.example/a", "title": "A"}},
}


def test_a_clean_event_reads_the_same_when_it_comes_again_as_one() -> None:
    """Cleaning what was cleaned changes nothing: canonical URLs, upper case currencies, exact money."""
    first = event(PURCHASE)
    again = {
        "type": "track",
        "event": first.name,
        "timestamp": first.event_time_ms,
        "userId": first.user_id,
        "context": {"page": {"url": first.url, "title": first.title}},
        "properties": {
            "product_id": first.product_id,
            "price": first.price_micros / 1e6,
            "revenue": first.revenue_micros / 1e6,
            "currency": first.currency,
            "quantity": first.quantity,
            **json.loads(first.properties),
        },
    }
    assert event(again) == first


@given(
    st.lists(st.sampled_from(list(Protocol)).flatmap(lambda kind: st.tuples(st.just(kind), messages[kind])), max_size=4)
)
@settings(max_examples=50, deadline=None)
def test_cleaning_one_event_does_not_depend_on_those_before_it(others: list[tuple[Protocol, Any]]) -> None:
    alone = event(PURCHASE)
    for protocol, message in others:
        outcome(message, protocol)
    assert event(PURCHASE) == alone


def test_an_error_says_what_was_wrong_where_and_what_was_expected() -> None:
    found = outcome({**PURCHASE, "properties": {"price": "cheap"}})
    assert found == Drop(DropReason.BAD_TYPE, "price = 'cheap': Input should be a valid decimal")
    found = outcome({"type": "teleport"})
    assert isinstance(found, Drop)
    assert found.detail.startswith("type = 'teleport', expected one of page, screen, impression, ")
    assert "decision" not in found.detail


def test_every_step_says_what_it_does() -> None:
    assert all(step.__doc__ for step in STEPS)


def test_the_common_form_has_a_schema_for_the_docs() -> None:
    schema = INCOMING.json_schema()
    assert schema["properties"]["product_id"] == {"maxLength": 256, "title": "Product Id", "type": ["string", "number"]}
    assert all(schema["properties"].values())


def agent(user_agent: str, protocol: Protocol = Protocol.SEGMENT, message: Any = None) -> Event:
    return event(message or {"type": "page", "e": "page"}, protocol, user_agent=user_agent)


def test_a_crawler_is_flagged_with_its_reason() -> None:
    found = agent("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)")
    assert (found.bot_reason, found.is_bot, found.device) == ("crawler", True, "bot")


def test_a_library_is_a_bot_on_a_pixel_and_the_shops_own_server_on_a_call() -> None:
    assert agent("curl/8.0", Protocol.PIXEL).bot_reason == "library"
    found = agent("curl/8.0")
    assert (found.bot_reason, found.browser, found.flags & EventFlag.BOT) == ("", "", 0)


def test_the_agent_that_an_event_states_outranks_that_of_its_request() -> None:
    message = {"type": "page", "context": {"userAgent": BROWSER}}
    assert agent("analytics-python/2.4.0", message=message).browser == "Chrome"


def test_what_the_request_says_is_kept() -> None:
    given_context = Context(Protocol.SEGMENT, "track", "shop", NOW_MS, 0, "1.2.3.0", BROWSER)
    found = clean(Collected(0, "m9", "bob", b'{"event":"x"}'), given_context, RULES)
    assert isinstance(found, Event)
    assert (found.event_id, found.visitor, found.site, found.ip) == ("m9", "bob", "shop", "1.2.3.0")
    assert (found.received_time_ms, found.protocol, found.event_type) == (NOW_MS, "segment", EventType.CUSTOM)
