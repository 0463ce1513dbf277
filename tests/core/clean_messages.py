"""Messages for the tests of cleaning: such as clients of each protocol send, and such with a wrong field or two.

What is wrong all over is refused at its first field, and nothing behind that is tried.
"""

import json
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

from hypothesis import strategies as st

from pipeline.core.adapt import PIXEL_FIELDS, SECOND_NAMES, SEGMENT_CAMPAIGN, SEGMENT_PROPERTIES, SNOWPLOW_DATA
from pipeline.core.event_names import NAMES
from schemas.event import EventType, Protocol
from tests.core.clean_rig import BROWSER, NOW_MS

numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 2**63, 1e308, 12.5])
texts = st.text(max_size=12) | st.sampled_from(
    ["", "null", "\0", "\ud800", "12.50", "NaN", "1e999", "2024-01-01T00:00:00Z", str(NOW_MS), "{",
     "[]", '{"a":1}', "x" * 2_000]
)  # fmt: skip
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
"""Whatever JSON can hold, and some that it cannot."""

WRONG = st.sampled_from([True, "cheap", ["a"], {"a": 1}, 1e300, 10**30, 1.5, "x" * 300]).map(deepcopy)
"""Each is wrong in most fields."""

# What is right in a field of ours. Everything may come as a text, too.
words = st.sampled_from(["shoes", "Rote Schuhe", "é", "42", "a/b"])
ids = words | st.integers(0, 10**9)
amounts = st.sampled_from([0, 12.5, "9.99", 1_000_000_000, "-3", 5e-7])
counts = st.integers(0, 10**6) | st.sampled_from(["3", -1])
urls = st.sampled_from(["https://shop.example/a?utm_source=x&gclid=1", "/a", "", "http://[", "shop.example"])
moments = st.integers(-(10**7), 10**9).map(lambda ago_ms: NOW_MS - ago_ms) | st.sampled_from(
    [str(NOW_MS), "2023-11-01T00:00:00Z", NOW_MS // 1_000, None, "", "yesterday"]
)
people = words | st.sampled_from(["null", 7, None])
RIGHT: Mapping[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("price", "revenue", "cost"), amounts),
    **dict.fromkeys(("quantity", "stock_level"), counts),
    **dict.fromkeys(("url", "referrer"), urls),
    **dict.fromkeys(("event_time", "sent_time"), moments),
    **dict.fromkeys(("product_id", "campaign_id", "creative_id", "placement_id", "action_id", "decision_id"), ids),
    "currency": st.sampled_from(["eur", "USD"]),
    "score": st.floats(-5, 5) | st.sampled_from(["4", 1]),
    "user_agent": st.just(BROWSER) | st.sampled_from(["curl/8.0", ""]),
    "user_id": people,
}
named = st.sampled_from(sorted(set(NAMES) - {"reward", "stock", "stock level", "inventory updated"}))
more = st.dictionaries(st.sampled_from(["colour", "size", "deep"]), words | st.lists(counts, max_size=2), max_size=2)


def right(names: Mapping[str, str] | Iterable[str], must: Iterable[str] = ()) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these fields, all of them right. names: theirs -> ours; must: theirs, always there."""
    ours = names if isinstance(names, Mapping) else {name: name for name in names}
    fields = {theirs: RIGHT.get(name, words) for theirs, name in ours.items()}
    needed = {theirs: fields.pop(theirs) for theirs in must}
    return st.fixed_dictionaries(needed, optional=fields)


def merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """One object of several."""
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


_products = right(
    {**SEGMENT_PROPERTIES, **SECOND_NAMES, "total": "revenue", "value": "cost", "position": "placement_id"}
)
_outer = {"timestamp": moments, "originalTimestamp": moments, "userId": people, "anonymousId": people}
_outer["context"] = st.fixed_dictionaries(
    {},
    optional={
        "page": right(("url", "title", "referrer")),
        "campaign": right(SEGMENT_CAMPAIGN),
        "userAgent": RIGHT["user_agent"],
        "locale": words,
    },
)


def _segment(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields}, optional=_outer)


segment = st.one_of(
    _segment("track", event=named, properties=merged(more, _products)),
    _segment(
        "track", event=st.just("Stock Level"), properties=right(SEGMENT_PROPERTIES, ("product_id", "stock_level"))
    ),
    _segment("track", event=st.just("reward"), properties=right(SEGMENT_PROPERTIES, ("decision_id",))),
    st.sampled_from(["page", "screen", "alias"]).flatmap(lambda kind: _segment(kind, properties=_products)),
    st.sampled_from(["identify", "group"]).flatmap(lambda kind: _segment(kind, traits=more)),
)

_tracker = {
    "uid": people, "url": urls, "page": words, "refr": urls, "ua": RIGHT["user_agent"], "lang": words, "stm": moments,
    "dtm": moments, "ttm": moments, "duid": people,
}  # fmt: skip
_shopping = right({
    "tr_tt": "revenue", "tr_cu": "currency", "ti_sk": "product_id", "ti_ca": "category", "ti_pr": "price",
    "ti_qu": "quantity",
})  # fmt: skip


def _snowplow(codes: Iterable[str], **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"e": st.sampled_from(sorted(codes)), **fields}, optional=_tracker)


def _wrapped(name: str, data: Mapping[str, Any]) -> str:
    schema = f"iglu:com.example/{name}/jsonschema/1-0-0"
    return json.dumps({"schema": "iglu:unstruct", "data": {"schema": schema, "data": data}})


snowplow = st.one_of(
    _snowplow(["pv", "pp"]),
    merged(_snowplow(["tr", "ti"]), _shopping),
    _snowplow(["se"], se_ca=words, se_ac=named, se_la=words, se_pr=words, se_va=st.sampled_from(["12.5", "3"])),
    _snowplow(
        ["ue"], ue_pr=st.builds(_wrapped, named, merged(more, right({**SEGMENT_PROPERTIES, **SNOWPLOW_DATA})))
    ),
)  # fmt: skip

pixel = merged(
    st.fixed_dictionaries({}, optional={"e": named, "v": people, "p": more.map(json.dumps)}),
    right({theirs: ours for theirs, ours in PIXEL_FIELDS.items() if theirs != "e"}),
)

_delivered = {
    "event_time_ms": moments, "reward": st.floats(0, 1), "value_micros": st.integers(-(10**12), 10**12),
    "properties": more,
    **{name: RIGHT[name] for name in ("action_id", "campaign_id", "creative_id", "product_id", "user_agent")},
}  # fmt: skip
herald = st.fixed_dictionaries(
    {"type": st.sampled_from(sorted({*EventType} - {EventType.STOCK})), "decision_id": ids, "placement_id": ids},
    optional=_delivered,
)

MESSAGES = {
    Protocol.SEGMENT: segment,
    Protocol.SNOWPLOW: snowplow,
    Protocol.PIXEL: pixel,
    Protocol.HERALD: herald,
}
"""Every one of them is a clean event."""


class Nearly(NamedTuple):
    """A message, and how many of its fields were made wrong (or are right by chance)."""

    message: dict[str, Any]
    wrong: int


@st.composite
def nearly(draw: st.DrawFn, protocol: Protocol) -> Nearly:
    """A message of a protocol with none to two of its fields replaced, left out, or added."""
    message = json.loads(json.dumps(draw(MESSAGES[protocol])))
    wrong = draw(st.integers(0, 2))
    for _ in range(wrong):
        holder = draw(st.sampled_from(_objects_in(message)))
        key = draw(st.sampled_from(sorted(holder)) if holder else texts)
        if draw(st.integers(0, 3)):
            holder[key] = draw(WRONG | values)
        else:
            holder.pop(key, None)
    return Nearly(message, wrong)


def _objects_in(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The message and the objects within it."""
    return [message, *(found for value in message.values() if isinstance(value, dict) for found in _objects_in(value))]


@st.composite
def damaged(draw: st.DrawFn, protocol: Protocol) -> bytes:
    """A message's bytes, cut, or with a few of them replaced: letters and digits by what may stand in a number."""
    raw = bytearray(json.dumps(draw(MESSAGES[protocol])).encode())
    if draw(st.integers(0, 3)) == 0:
        return bytes(raw[: draw(st.integers(0, len(raw)))])
    for _ in range(draw(st.integers(1, 2))):
        is_word = draw(st.integers(0, 5)) > 0
        places = [at for at in range(len(raw)) if raw[at : at + 1].isalnum() is is_word]
        at = draw(st.sampled_from(places or range(len(raw))))
        raw[at] = draw(st.sampled_from(b"1234567890-e" if is_word else b'0"[]{},:-e'))
    return bytes(raw)
