"""Laws of cleaning one event: it never raises, never changes what it was given, and knows nothing but the event."""

import json
from collections import Counter
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.adapt import ADAPTERS, PIXEL_FIELDS, SEGMENT_PROPERTIES, SNOWPLOW_FIELDS, BadPayload
from pipeline.core.clean import STEPS, Drop, clean
from schemas.event import Collected, Context, DropReason, Event, EventFlag, EventType, Protocol
from schemas.incoming import INCOMING
from tests.core.clean_messages import Nearly, damaged, nearly, texts, values
from tests.core.clean_rig import BROWSER, NOW_MS, RULES, context, event, outcome

# A protocol's own keys, and what says of which type an event is.
KEYS: dict[Protocol, set[str]] = {
    Protocol.SEGMENT: {"event", "properties", "timestamp", "userId", "anonymousId", "context", *SEGMENT_PROPERTIES},
    Protocol.SNOWPLOW: {*SNOWPLOW_FIELDS, "dtm", "se_ca", "se_la", "se_pr", "se_va", "duid"},
    Protocol.PIXEL: {*PIXEL_FIELDS, "v"},
    Protocol.HERALD: {"event_time_ms", "reward", "value_micros", "properties", "action_id", "url", "revenue"},
}
TYPED: dict[Protocol, dict[str, str]] = {
    Protocol.SEGMENT: {"type": "track", "event": "Order Completed"},
    Protocol.SNOWPLOW: {"e": "se", "se_ac": "purchase"},
    Protocol.PIXEL: {"e": "purchase"},
    Protocol.HERALD: {"type": "click", "decision_id": "d1", "placement_id": "home"},
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


@given(raw=st.binary(max_size=200), protocol=st.sampled_from(Protocol))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_cleaned_or_refused(protocol: Protocol, raw: bytes) -> None:
    check(raw, protocol)


@given(value=values, protocol=st.sampled_from(Protocol))
@settings(max_examples=30, deadline=None)
def test_any_json_is_cleaned_or_refused(protocol: Protocol, value: Any) -> None:
    check(json.dumps(value).encode(), protocol)


def events_in(found: Counter[str]) -> float:
    """Which part of all that was tried became an event."""
    return found["event"] / found.total()


def what(found: Event | Drop) -> str:
    return str(found.reason) if isinstance(found, Drop) else "event"


@protocols
def test_any_object_of_a_protocol_s_own_fields_is_cleaned_or_refused(protocol: Protocol) -> None:
    """Each with whatever JSON can hold; the type alone is right."""
    met: Counter[str] = Counter()
    names = st.sampled_from(sorted(KEYS[protocol])) | texts

    @settings(max_examples=40)
    @given(st.dictionaries(names, values, max_size=4))
    def is_one(value: dict[str, Any]) -> None:
        met[what(check(json.dumps({**value, **TYPED[protocol]}).encode(), protocol))] += 1

    is_one()
    assert events_in(met) > 0.1, met
    assert met[DropReason.BAD_TYPE], met


@protocols
def test_any_message_of_a_protocol_is_cleaned_or_refused(protocol: Protocol) -> None:
    """What a client sends is an event, and with a wrong field or two it is one or is refused, never a crash."""
    met: Counter[str] = Counter()

    @settings(max_examples=150)
    @given(nearly(protocol))
    def is_one(sent: Nearly) -> None:
        found = check(json.dumps(sent.message).encode(), protocol)
        assert sent.wrong or isinstance(found, Event), found
        met[what(found)] += 1

    is_one()
    assert 0.3 < events_in(met) < 1, met


@protocols
def test_a_message_that_was_cut_or_altered_is_cleaned_or_refused(protocol: Protocol) -> None:
    met: Counter[str] = Counter()

    @settings(max_examples=60)
    @given(damaged(protocol))
    def is_one(raw: bytes) -> None:
        met[what(check(raw, protocol))] += 1

    is_one()
    assert events_in(met) > 0.02, met
    assert met[DropReason.BAD_JSON], met


@protocols
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_an_adapter_changes_nothing_of_the_message(protocol: Protocol, data: st.DataObject) -> None:
    message = data.draw(nearly(protocol)).message
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


@given(st.lists(st.sampled_from(Protocol).flatmap(lambda kind: st.tuples(st.just(kind), nearly(kind))), max_size=4))
@settings(max_examples=50, deadline=None)
def test_cleaning_one_event_does_not_depend_on_those_before_it(others: list[tuple[Protocol, Nearly]]) -> None:
    alone = event(PURCHASE)
    for protocol, sent in others:
        outcome(sent.message, protocol)
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
