"""What each protocol's own words become: the examples of its own documentation, and our own events."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from clean_rig import NOW_MS, event, properties, reason
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.event_names import NAMES, type_of
from pipeline.core.event_time import time_ms
from pipeline.core.ids import usable_id
from pipeline.core.outcome import open_decisions
from schemas.event import DropReason, Event, EventType, Protocol
from schemas.outcome import Choice, DecisionLog

ORDER = {
    "type": "track",
    "event": "Order Completed",
    "userId": "sloth@example.com",
    "timestamp": "2023-11-14T22:00:00.000Z",
    "context": {"page": {"url": "https://www.example.com/checkout", "title": "Checkout"}},
    "properties": {
        "checkout_id": "fksdjfsdjfisjf9sdfjsd9f",
        "order_id": "50314b8e9bcf000000000000",
        "affiliation": "Google Store",
        "total": 27.50,
        "subtotal": 22.50,
        "revenue": 25.00,
        "shipping": 3,
        "tax": 2,
        "currency": "usd",
        "products": [
            {
                "product_id": "507f1f77bcf86cd799439011",
                "sku": "45790-32",
                "category": "Games",
                "price": 19,
                "quantity": 1,
            },
            {
                "product_id": "505bd76785ebb509fc183733",
                "sku": "46493-32",
                "category": "Games",
                "price": 3,
                "quantity": 2,
            },
        ],
    },
}


def segment(called: str, /, **found: Any) -> Event:
    return event({"type": "track", "event": called, "properties": found})


def test_an_order_completed_in_segments_words() -> None:
    """Revenue is what the spec calls revenue, not the total with shipping and tax; nothing of the rest is lost."""
    found = event(ORDER)
    assert found.event_type is EventType.PURCHASE
    assert (found.name, found.revenue_micros, found.currency) == ("Order Completed", 25_000_000, "USD")
    assert (found.product_id, found.category) == ("507f1f77bcf86cd799439011", "Games")
    assert (found.url, found.title) == ("https://www.example.com/checkout", "Checkout")
    assert found.event_time_ms == NOW_MS - 800_000
    taken = {"revenue", "currency"}
    assert properties(found) == {key: value for key, value in ORDER["properties"].items() if key not in taken}  # type: ignore[attr-defined]


def test_which_amount_is_the_revenue_does_not_depend_on_the_order_of_keys() -> None:
    amounts = {"value": 1, "total": 27.5, "revenue": 25}
    for names in (["value", "total", "revenue"], ["revenue", "total", "value"], ["total", "value", "revenue"]):
        assert segment("Order Completed", **{name: amounts[name] for name in names}).revenue_micros == 25_000_000
    assert segment("Order Completed", value=1, total=27.5).revenue_micros == 27_500_000


def test_the_value_of_a_viewed_product_is_no_revenue() -> None:
    found = segment(
        "Product Viewed", product_id="a", price=18.99, value=18.99, position=3, url="https://shop.example/a"
    )
    assert found.event_type is EventType.PRODUCT_VIEW
    assert (found.revenue_micros, found.price_micros, found.placement_id) == (0, 18_990_000, "")
    assert properties(found) == {"value": 18.99, "position": 3}
    assert found.url == "https://shop.example/a"


@pytest.mark.parametrize(
    ("name", "kind"), [("Promotion Viewed", EventType.IMPRESSION), ("Promotion Clicked", EventType.CLICK)]
)
def test_a_promotion_in_segments_words(name: str, kind: EventType) -> None:
    found = segment(
        name,
        promotion_id="promo_1",
        creative="top_banner_2",
        name="75% store-wide shoe sale",
        position="home_banner_top",
    )
    assert (found.event_type, found.campaign_id, found.creative_id) == (kind, "promo_1", "top_banner_2")
    assert found.placement_id == "home_banner_top"
    assert properties(found) == {"name": "75% store-wide shoe sale"}


def test_a_search_in_segments_words() -> None:
    found = segment("Products Searched", query="blue hotpants")
    assert (found.event_type, found.search) == (EventType.SEARCH, "blue hotpants")


def test_a_product_added_under_its_second_names() -> None:
    found = segment("Product Added", sku="G-32", category_code="games.board", quantity=2, price="18.99", cart_id="c1")
    assert found.event_type is EventType.ADD_TO_CART
    assert (found.product_id, found.category, found.quantity) == ("G-32", "games.board", 2)
    assert properties(found) == {"cart_id": "c1"}


def test_a_second_name_beside_the_first_stays_in_the_properties() -> None:
    found = segment("Product Viewed", sku="G-32", product_id="507f")
    assert (found.product_id, properties(found)) == ("507f", {"sku": "G-32"})


def test_an_identify_call_keeps_all_traits() -> None:
    """A person's title and position are not a page's."""
    traits = {"name": "Peter", "title": "CEO", "position": "left", "value": 5, "plan": "premium", "logins": 5}
    found = event({"type": "identify", "userId": "97980cfea0067", "traits": traits})
    assert (found.event_type, found.user_id) == (EventType.IDENTIFY, "97980cfea0067")
    assert (found.title, found.placement_id, found.revenue_micros) == ("", "", 0)
    assert properties(found) == traits


def test_a_page_with_a_campaign_in_segments_words() -> None:
    page = {
        "path": "/academy/",
        "referrer": "https://www.google.com/",
        "search": "?a=1",
        "title": "Academy",
        "url": "https://segment.example/academy/?utm_source=url&utm_content=url",
    }
    campaign = {"name": "TPS Innovation", "source": "Newsletter", "medium": "email", "term": "tps", "id": "c7"}
    context = {"page": page, "campaign": campaign, "locale": "en-US", "userAgent": "curl/8"}
    found = event({"type": "page", "name": "Home", "properties": page, "context": context})
    assert (found.event_type, found.name, found.title) == (EventType.PAGE, "Home", "Academy")
    assert (found.host, found.path, found.url) == ("segment.example", "/academy/", "https://segment.example/academy/")
    assert (found.utm_source, found.utm_medium, found.utm_campaign) == ("Newsletter", "email", "TPS Innovation")
    assert (found.utm_term, found.utm_content, found.campaign_id) == ("tps", "url", "c7")
    assert (found.channel, found.referrer_class, found.language) == ("email", "campaign", "en-US")
    assert found.bot_reason == "library"
    assert properties(found) == {"path": "/academy/", "search": "?a=1"}, "what has its field is not stored twice"


def test_the_page_outranks_a_products_address() -> None:
    message = {
        "type": "track",
        "event": "Product Clicked",
        "properties": {"url": "https://shop.example/p/1"},
        "context": {"page": {"url": "https://shop.example/list"}},
    }
    found = event(message)
    assert (found.path, properties(found)) == ("/list", {"url": "https://shop.example/p/1"})


def test_ad_cost_by_any_of_its_names() -> None:
    for name in ("cost", "value", "total", "revenue"):
        found = segment("Ad Spend", **{name: "12.50", "campaign_id": "c1"})
        assert (found.event_type, found.cost_micros, found.revenue_micros) == (EventType.COST, 12_500_000, 0), name


@pytest.mark.parametrize("kind", ["screen", "group", "alias"])
def test_other_calls_of_segment(kind: str) -> None:
    assert event({"type": kind, "name": "x"}).event_type == kind


def test_a_call_without_type_is_what_its_endpoint_says() -> None:
    assert event({"event": "Signed Up"}, kind="track").event_type is EventType.SUBSCRIBE
    assert reason({"event": "Signed Up"}, kind="batch") is DropReason.UNKNOWN_TYPE


SNOWPLOW = {
    "url": "https://shop.example/a?utm_source=x",
    "page": "A",
    "refr": "https://t.co/",
    "lang": "de",
    "uid": "u1",
    "duid": "ann",
    "dtm": str(NOW_MS - 5_000),
    "stm": str(NOW_MS - 100),
}


def snowplow(**found: Any) -> Event:
    return event({**SNOWPLOW, **found}, Protocol.SNOWPLOW)


def self_describing(name: str, data: dict[str, Any]) -> str:
    inner = {"schema": f"iglu:com.snowplowanalytics.snowplow/{name}/jsonschema/1-0-1", "data": data}
    return json.dumps({"schema": "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0", "data": inner})


def test_a_page_view_in_snowplows_words() -> None:
    found = snowplow(e="pv")
    assert (found.event_type, found.title, found.language, found.user_id) == (EventType.PAGE, "A", "de", "u1")
    assert (found.path, found.utm_source, found.referrer_class) == ("/a", "x", "campaign")
    assert (found.event_time_ms, found.properties) == (NOW_MS - 5_000, "")


def test_snowplow_true_time_outranks_the_devices() -> None:
    assert snowplow(e="pv", ttm=str(NOW_MS - 9_000)).event_time_ms == NOW_MS - 9_000


def test_snowplow_page_ping_is_no_page() -> None:
    found = snowplow(e="pp", pp_mix="0", pp_max="7")
    assert (found.event_type, found.name) == (EventType.CUSTOM, "page ping")


def test_a_structured_event_of_snowplow() -> None:
    found = snowplow(e="se", se_ca="ecomm", se_ac="add-to-basket", se_la="pbz0026", se_pr="blue", se_va="2")
    assert (found.event_type, found.name) == (EventType.ADD_TO_CART, "add-to-basket")
    assert (found.category, found.product_id, found.score) == ("ecomm", "pbz0026", 0)
    assert properties(found) == {"property": "blue", "value": "2"}


def test_the_label_of_a_played_video_is_no_product() -> None:
    found = snowplow(e="se", se_ca="video", se_ac="play", se_la="intro", se_va="3.5")
    assert (found.event_type, found.product_id, found.score) == (EventType.CUSTOM, "", 0)
    assert properties(found) == {"label": "intro", "value": "3.5"}
    assert snowplow(e="se", se_ca="shop", se_ac="rating", se_va="4.5").score == 4.5
    assert snowplow(e="se", se_ca="shop", se_ac="purchase", se_va="9.99").revenue_micros == 9_990_000


def test_a_link_click_of_snowplow() -> None:
    data = {"targetUrl": "https://other.example/", "elementId": "cta", "elementClasses": ["big"]}
    found = snowplow(e="ue", ue_pr=self_describing("link_click", data))
    assert (found.event_type, found.name, properties(found)) == (EventType.CLICK, "link_click", data)


def test_an_ad_impression_of_snowplow() -> None:
    data = {
        "impressionId": "67965967893",
        "costModel": "cpm",
        "cost": 5.5,
        "targetUrl": "https://shop.example/",
        "bannerId": "23",
        "zoneId": "7",
        "advertiserId": "201",
        "campaignId": "12",
    }
    found = snowplow(e="ue", ue_pr=self_describing("ad_impression", data))
    assert (found.event_type, found.campaign_id, found.creative_id) == (EventType.IMPRESSION, "12", "23")
    assert (found.placement_id, found.cost_micros) == ("7", 5_500_000)
    assert set(properties(found)) == {"impressionId", "costModel", "targetUrl", "advertiserId"}


def test_a_cart_and_a_search_of_snowplow() -> None:
    data = {"sku": "a1", "name": "Cap", "category": "hats", "unitPrice": 9.5, "quantity": 2, "currency": "EUR"}
    found = snowplow(e="ue", ue_pr=self_describing("add_to_cart", data))
    assert (found.event_type, found.product_id, found.category) == (EventType.ADD_TO_CART, "a1", "hats")
    assert (found.price_micros, found.quantity, found.currency) == (9_500_000, 2, "EUR")
    found = snowplow(e="ue", ue_pr=self_describing("site_search", {"terms": ["blue", "hat"], "totalResults": 3}))
    assert (found.event_type, found.search, properties(found)) == (EventType.SEARCH, "blue hat", {"totalResults": 3})


def test_a_transaction_of_snowplow() -> None:
    found = snowplow(e="tr", tr_id="12345", tr_tt="58.99", tr_tx="10.50", tr_cu="eur", tr_ci="Berlin")
    assert (found.event_type, found.revenue_micros, found.currency) == (EventType.PURCHASE, 58_990_000, "EUR")
    assert properties(found) == {"tr_id": "12345", "tr_tx": "10.50", "tr_ci": "Berlin"}


def test_every_short_key_of_the_pixel() -> None:
    message = {
        "e": "purchase", "v": "ann", "t": "Thanks", "uid": "u1", "ts": str(NOW_MS - 1_000), "u": "https://shop.example/thanks",
        "cid": "c1", "cr": "cr1", "pl": "top", "a": "a1", "d": "d1", "pid": "p1", "cat": "hats", "b": "acme", "q": "2",
        "pr": "12.50", "rev": "25.00", "cost": "0.1", "cur": "eur", "s": "cap", "sc": "4.5", "sl": "7", "l": "de",
        "p": '{"x":1}',
    }  # fmt: skip
    found = event(message, Protocol.PIXEL)
    assert (found.event_type, found.user_id, found.event_time_ms) == (EventType.PURCHASE, "u1", NOW_MS - 1_000)
    assert (found.campaign_id, found.creative_id, found.placement_id) == ("c1", "cr1", "top")
    assert (found.action_id, found.decision_id, found.product_id) == ("a1", "d1", "p1")
    assert (found.category, found.brand, found.quantity, found.stock_level) == ("hats", "acme", 2, 7)
    assert (found.price_micros, found.revenue_micros, found.cost_micros) == (12_500_000, 25_000_000, 100_000)
    assert (found.currency, found.search, found.score, found.language) == ("EUR", "cap", 4.5, "de")
    assert (found.path, found.title, found.properties) == ("/thanks", "Thanks", '{"x":1}')


def test_a_pixel_without_a_word_is_a_page_view_of_the_page_that_it_stands_on() -> None:
    found = event({}, Protocol.PIXEL, referrer="https://shop.example/a")
    assert (found.event_type, found.url) == (EventType.PAGE, "https://shop.example/a")


def test_a_pixel_with_a_name_of_its_own_is_custom() -> None:
    found = event({"e": "wishlist opened"}, Protocol.PIXEL)
    assert (found.event_type, found.name) == (EventType.CUSTOM, "wishlist opened")


LOG = DecisionLog(
    decision_id="018bcfe568000000abcd000000000001",
    placement_id="home",
    policy="epsilon_greedy",
    model_version="3:17",
    seed="s",
    choices=[Choice("a1", 1, 0.1 + 0.2, "c1", "cr1"), Choice("a2", 2, 1e-9)],
    candidates=["a1", "a2"],
    propensities=[0.1 + 0.2, 1 / 3],
    excluded={" a3 ": "budget"},
    context={"hour": 7},
)


def test_a_decision_keeps_its_log_to_the_last_bit() -> None:
    """The profile stage reads it from the properties; a propensity that changed would spoil every estimate."""
    message = {
        "type": "decision",
        "event_time_ms": NOW_MS,
        "decision_id": LOG.decision_id,
        "placement_id": "home",
        "action_id": "a1",
        "campaign_id": "c1",
        "creative_id": "",
        "properties": msgspec.Raw(msgspec.json.encode(LOG)),
    }
    found = event(msgspec.json.encode(message), Protocol.HERALD, user_agent="")
    assert (found.event_type, found.decision_id, found.action_id) == (EventType.DECISION, LOG.decision_id, "a1")
    assert (found.event_time_ms, found.creative_id, found.flags) == (NOW_MS, "", 0)
    assert msgspec.json.decode(found.properties, type=DecisionLog) == LOG
    opened = open_decisions(found)
    assert opened is not None
    assert [decision.choice for decision in opened] == LOG.choices


def test_a_decision_needs_an_id_and_a_place() -> None:
    assert reason({"type": "decision", "decision_id": "d"}, Protocol.HERALD) is DropReason.MISSING_FIELD


def test_a_reward_brings_its_worth() -> None:
    message = {"type": "reward", "event_time_ms": NOW_MS, "decision_id": "d", "action_id": "a1", "reward": 0.25}
    found = event({**message, "value_micros": 12_345_678}, Protocol.HERALD)
    assert (found.event_type, found.score, found.revenue_micros) == (EventType.REWARD, 0.25, 12_345_678)
    assert (found.decision_id, found.action_id) == ("d", "a1")


AMOUNTS = [
    ("12.50", 12_500_000),
    (12.5, 12_500_000),
    (0.1, 100_000),
    (" 9.99 ", 9_990_000),
    (-3, -3_000_000),
    ("1e-7", 0),
    ("0.0000005", 0),
    ("0.0000015", 2),
    ("0.0000025", 2),
    ("0.00000050000000000000000000000000000000001", 1),
    ("-0.0000015", -2),
    ("999999999.999999", 999_999_999_999_999),
    (1_000_000_000, 10**15),
]


@pytest.mark.parametrize(("amount", "micros"), AMOUNTS)
def test_money_is_exact_to_the_micro_and_half_goes_to_even(amount: object, micros: int) -> None:
    assert segment("x", price=amount).price_micros == micros


@given(st.integers(-(10**15), 10**15))
def test_every_whole_number_of_micros_comes_through(micros: int) -> None:
    assert segment("x", revenue=str(Decimal(micros).scaleb(-6))).revenue_micros == micros


@pytest.mark.parametrize("amount", [1_000_000_001, "1e30", "-1e10", "12.5.0", "€5", [], {}, False])
def test_money_that_is_none_is_refused(amount: object) -> None:
    assert reason({"type": "track", "event": "x", "properties": {"price": amount}}) is DropReason.BAD_TYPE


NOON_MS = 1_700_049_600_000


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("2023-11-15T12:00:00Z", NOON_MS),
        ("2023-11-15T12:00:00.000Z", NOON_MS),
        ("2023-11-15T14:00:00+02:00", NOON_MS),
        ("2023-11-15T06:30:00-05:30", NOON_MS),
        ("2023-11-15T12:00:00", NOON_MS),
        ("2023-11-15 12:00:00", NOON_MS),
        ("2023-11-15", NOON_MS - 12 * 3_600_000),
        ("2023-11-15T12:00:00.123456789Z", NOON_MS + 123),
        (NOON_MS, NOON_MS),
        (NOON_MS // 1000, NOON_MS),
        (NOON_MS / 1000 + 0.123, NOON_MS + 123),
        (str(NOON_MS), NOON_MS),
        (str(NOON_MS // 1000), NOON_MS),
        ("1700049600.5", NOON_MS + 500),
        ("1711111111111", 1_711_111_111_111),
        ("99999999999999", 99_999_999_999_999),
        ("999999999999999", None),
        (10**400, None),
        (float("inf"), None),
        (float("nan"), None),
        (True, None),
        ("", None),
        ("now", None),
        ("0001-01-01T00:00:00+14:00", -62_135_647_200_000),
        ("\ud800", None),
    ],
)
def test_a_time_in_any_of_its_spellings(stated: object, expected: int | None) -> None:
    assert time_ms(stated) == expected


@given(st.integers(10**11, 10**14 - 1))
def test_ms_as_text_are_never_taken_for_a_date(ms: int) -> None:
    """ISO's basic format reads 13 digits as a day and a time, too: of the year 1711, say."""
    assert time_ms(str(ms)) == ms


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_no_value_is_too_strange_for_a_time(stated: object) -> None:
    found = time_ms(stated)
    assert found is None or isinstance(found, int)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none()))
def test_a_usable_id_is_usable_as_it_is(value: object) -> None:
    found = usable_id(value)
    assert usable_id(found) == found
    assert len(found.encode("utf-8", "replace")) <= 128 + 2 * found.count("\ufffd")


@pytest.mark.parametrize(
    "name", ["Order Completed", "order_completed", "orderCompleted", "ORDER COMPLETED", " order--completed! "]
)
def test_a_name_is_known_in_every_spelling(name: str) -> None:
    assert type_of(name) is EventType.PURCHASE


def test_every_name_in_the_table_is_found_and_no_other() -> None:
    assert all(type_of(name) is kind for name, kind in NAMES.items())
    assert type_of("Order") is EventType.CUSTOM
    assert type_of("decision") is EventType.CUSTOM, "only delivery decides"
    assert type_of("") is EventType.CUSTOM
    assert type_of("x" * 100_000) is EventType.CUSTOM
